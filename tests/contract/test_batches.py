"""Many rows cost as many statements as few, and each row gets its own answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dispatcher.environment import Environment
from dispatcher.execution import Claim, StartedRun
from dispatcher.model import Outcome, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.sql import SqlStore
from dispatcher.words import Beat, Refused, Renewed
from dispatcher.worker_api import WorkerError
from tests.contract.helpers import NODE, NOW, OneByOne, later, new_task, settlement

MANY = 40


@contextmanager
def counted(store: SqlStore) -> Iterator[list[str]]:
    """Collect the statements that are executed in the body."""
    executed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rows", "change", "later"):
            sound = getattr(store.engine, name)

            def call(statement: str, *args: Any, sound: Any = sound) -> Any:
                executed.append(statement)
                return sound(statement, *args)

            patch.setattr(store.engine, name, call)
        yield executed


def full(number: int) -> NewTask:
    """Return a task with all that has rows of its own."""
    environment = Environment({"NUMBER": str(number)})
    return new_task(key=f"k{number}", payload=f"{number}", environment=environment)


def submitting(store: SqlStore, many: int) -> None:
    store.submit([full(number) for number in range(many)], now=NOW)


def submitting_again(store: SqlStore, many: int) -> None:
    store.submit([full(number) for number in range(many)], now=NOW)


def claimed(store: SqlStore, many: int) -> list[Claim]:
    return store.claim("default", limit=many, node=NODE, output_dir="/o", now=NOW)


def starting(store: SqlStore, many: int) -> None:
    starts = [StartedRun(uid=run.run_uid, pid=7, at=NOW) for run in store.open_runs(NODE)[:many]]
    assert len(starts) == store.record_started(starts, now=NOW)


def beating(store: SqlStore, claims: list[Claim]) -> None:
    beats = [Beat(task_id=claim.task_id, lock=claim.lock) for claim in claims]
    assert {Renewed} == {type(one) for one in store.heartbeat(beats, now=NOW)}


def settling(store: SqlStore, claims: list[Claim], state: TaskState) -> None:
    facts: dict[str, Any] = {"state": state, "outcome": Outcome.RELEASED}
    ends = [settlement(claim, **facts) for claim in claims]
    assert len(claims) == store.settle(ends, now=NOW)


def life(store: SqlStore, many: int) -> dict[str, int]:
    """Bring so many tasks from submit to deletion; return the statements of each step."""
    steps: dict[str, int] = {}

    def step(name: str, do: Callable[..., Any], *args: Any) -> Any:
        with counted(store) as executed:
            done = do(store, *args)
        steps[name] = len(executed)
        return done

    with store.transaction():
        step("submit", submitting, many)
        step("submit again", submitting_again, many)
        claims = step("claim", claimed, many)
        assert many == len(claims)
        step("start", starting, many)
        step("beat", beating, claims)
        step("settle", settling, claims, TaskState.READY)
        again = step("claim again", claimed, many)
        step("settle at last", settling, again, TaskState.SUCCEEDED)
        pruned = step("prune", lambda _: store.prune(before=later(1), limit=9999))
        assert many == pruned.tasks
    return steps


def test_forty_tasks_cost_as_many_statements_as_two(raw: SqlStore) -> None:
    few = life(raw, 2)
    many = life(raw, MANY)

    assert few == many


def test_moving_due_and_overdue_tasks_costs_the_same_for_any_number(raw: SqlStore) -> None:
    spent = []
    for many in (2, MANY):
        with raw.transaction():
            late = new_task(delay_ms=10, total_timeout_ms=20)
            raw.submit([late] * many, now=NOW)
            with counted(raw) as executed:
                assert many == raw.move_due(limit=99, now=later(11))
                assert many == len(raw.give_up(limit=99, now=later(30)))
            spent.append(len(executed))

    assert 1 == len(set(spent))


def test_tasks_of_one_submit_get_their_answers_in_its_order(store: OneByOne) -> None:
    taken = store.new(key="taken", command=("a",))
    wanted = [
        new_task(),
        new_task(key="taken", command=("b",)),
        new_task(key="new", payload="1"),
        new_task(),
        new_task(key="new", payload="2"),
    ]

    made = store.submit(wanted, now=NOW)

    assert [True, False, True, True, False] == [one.created for one in made]
    assert (taken, ("command",)) == (made[1].task_id, made[1].differs)
    assert (made[2].task_id, ("payload",)) == (made[4].task_id, made[4].differs)
    ids = [one.task_id for one in made if one.created]
    assert sorted(ids) == ids
    assert [None, "1", None] == [store.task(task_id).payload for task_id in ids]


def test_a_closed_run_among_others_is_left_out_and_its_task_stays(store: OneByOne) -> None:
    first, second = store.claimed(), store.claimed()
    store.end(first, outcome=Outcome.FAILED, state=TaskState.HELD)

    closed = store.settle([settlement(first), settlement(second)], now=later(1))

    assert 1 == closed
    assert {first.task_id: TaskState.HELD, second.task_id: TaskState.SUCCEEDED} == store.states()


def test_each_beat_of_a_batch_is_judged_by_its_own_lock(store: OneByOne) -> None:
    mine, other = store.claimed(), store.claimed()
    beats = [
        Beat(task_id=mine.task_id, lock=other.lock, note="stolen"),
        Beat(task_id=mine.task_id, lock=mine.lock, note="mine"),
        Beat(task_id=other.task_id, lock=other.lock),
        Beat(task_id=99, lock=mine.lock),
        Beat(task_id=mine.task_id, lock=mine.lock, progress=0.5),
    ]

    answers = store.heartbeat(beats, now=later(7))

    not_owner = Refused(WorkerError.NOT_OWNER, TaskState.RUNNING, 1)
    renewed = Renewed(later(7 + mine.lease_ttl_ms))
    assert [not_owner, renewed, renewed, Refused(WorkerError.UNKNOWN_TASK), renewed] == answers
    run = store.last_run(mine.task_id)
    assert ("mine", 0.5) == (run.note, run.progress)
