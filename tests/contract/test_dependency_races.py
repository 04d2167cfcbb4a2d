"""Submits, ends and releases of tasks that wait for each other, at the same time on a server."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from dispatcher.dependency import DependencyState, TaskKey
from dispatcher.model import Pruned, TaskState
from dispatcher.store.statements import dependencies as sql
from dispatcher.store.statements import operators
from tests.contract.helpers import NODE, NOW, SHARED, OneByOne, later, new_task
from tests.contract.interleaved import Sessions, stopped
from tests.contract.test_dependencies import end, parent, resolved
from tests.postgres import Postgres

pytestmark = SHARED


def test_a_parent_that_ends_while_its_child_is_submitted_is_not_missed(
    store: OneByOne, postgres: Postgres, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        sessions = Sessions(postgres, tmp_path / "state", stack)
        submitter, operator = sessions.open(), sessions.open()
        one = parent(store)

        with submitter.transaction():
            (child,) = submitter.submit([new_task(after=(one,))], now=NOW)

            def cancel() -> None:
                with operator.transaction():
                    operator.cancel(one, "no", now=NOW)

            cancelled = sessions.waiting(cancel)
        cancelled.result()
    resolved(store)

    assert TaskState.HELD is store.task(child.task_id).state


@pytest.mark.parametrize("name", [lambda one: one, lambda _: TaskKey("parents", "build")])
def test_a_parent_that_is_changed_while_a_submit_waits_for_it_exists(
    store: OneByOne, postgres: Postgres, tmp_path: Path, name: Callable[[int], int | TaskKey]
) -> None:
    # Of few rows the server makes another plan, which finds it.
    store.submit([new_task(queue="others") for _ in range(500)], now=NOW)
    one, two = parent(store, key="build"), parent(store, "else")
    with ExitStack() as stack:
        sessions = Sessions(postgres, tmp_path / "state", stack)
        submitter, daemon = sessions.open(), sessions.open()

        with daemon.transaction():
            daemon.claim("parents", limit=1, node=NODE, output_dir="/out", now=NOW)

            def submit() -> int:
                with submitter.transaction():
                    wanted = new_task(after=(name(one), two))
                    return submitter.submit([wanted], now=NOW)[0].task_id

            submitted = sessions.waiting(submit)
        child = store.task(submitted.result())

    assert (TaskState.WAITING, "it has parents", 2) == (child.state, child.reason, child.blockers)


def test_the_same_lines_from_two_clients_at_once_wait_for_the_tasks_that_were_made(
    store: OneByOne, postgres: Postgres, tmp_path: Path
) -> None:
    lines = [new_task(key="a"), new_task(queue="children", after=(TaskKey("default", "a"),))]
    with ExitStack() as stack:
        sessions = Sessions(postgres, tmp_path / "state", stack)
        one, two = sessions.open(), sessions.open()

        with one.transaction():
            first, _ = one.submit(lines, now=NOW)

            def submit_again() -> int:
                with two.transaction():
                    return two.submit(lines, now=NOW)[1].task_id

            submitted = sessions.waiting(submit_again)
        child = submitted.result()

    with store.raw.snapshot():
        assert [first.task_id] == [dep.parent_id for dep in store.raw.parents([child], limit=9)]
    end(store, first.task_id)
    resolved(store)
    assert TaskState.READY is store.task(child).state


def test_a_task_that_is_released_while_its_parents_end_is_read_stays_released(
    store: OneByOne, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = parent(store)
    child = store.new(after=(one,))
    store.cancel(one, "no", now=NOW)
    with ExitStack() as stack:
        sessions = Sessions(postgres, tmp_path / "state", stack)
        daemon, operator = sessions.open(), sessions.open()
        stopped(daemon, sql.OPEN, monkeypatch)

        with sessions.gate():

            def resolve() -> None:
                with daemon.transaction():
                    daemon.resolve(limit=9, now=NOW)

            passed_on = sessions.waiting(resolve)
            with operator.transaction():
                operator.release(child, now=NOW)
        passed_on.result()

    assert TaskState.READY is store.task(child).state
    with store.raw.snapshot():
        (left,) = store.raw.parents([child], limit=9)
    assert DependencyState.MET is left.state


def test_a_parent_that_a_submit_names_while_old_tasks_are_searched_is_kept(
    store: OneByOne, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, old = parent(store), parent(store, "old")
    end(store, one)
    end(store, old)
    with ExitStack() as stack:
        sessions = Sessions(postgres, tmp_path / "state", stack)
        pruner, submitter = sessions.open(), sessions.open()
        stopped(pruner, operators.OLD, monkeypatch)

        with sessions.gate():

            def prune() -> Pruned:
                with pruner.transaction():
                    return pruner.prune(before=later(9), limit=9, states={TaskState.SUCCEEDED})

            pruned = sessions.waiting(prune)
            with submitter.transaction():
                submitter.submit([new_task(after=(one,))], now=NOW)

        assert 1 == pruned.result().tasks
    assert (True, False) == tuple(store.task(task) is not None for task in (one, old))
