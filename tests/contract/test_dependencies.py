"""A task waits for its parents, whatever becomes of them: `waiting`, and what follows."""

import json
import random
from typing import Any

import pytest

from dispatcher.dependency import DependencyState, ParentFailure, TaskKey
from dispatcher.model import FINISHED, Declared, Outcome, TaskFilter, TaskState
from dispatcher.words import Declaration
from tests.contract.helpers import NOW, OneByOne, later, new_task, settlement
from tests.model.kin import Kin

WAITING, SCHEDULED, READY = TaskState.WAITING, TaskState.SCHEDULED, TaskState.READY
HELD, CANCELLED = TaskState.HELD, TaskState.CANCELLED
SUCCEEDED, FAILED = TaskState.SUCCEEDED, TaskState.FAILED
RULES = (None, ParentFailure.CANCEL, ParentFailure.RUN)


def end(store: OneByOne, task_id: int, state: TaskState = SUCCEEDED, **facts: Any) -> None:
    """Run a ready task, whose queue has no other, to this state."""
    (claim,) = store.take(store.task(task_id).queue)
    assert claim.task_id == task_id
    outcome = Outcome.SUCCEEDED if state is SUCCEEDED else Outcome.FAILED
    store.end(claim, outcome=outcome, state=state, reason="its end", **facts)


def resolved(store: OneByOne, limit: int = 500) -> None:
    while store.resolve(limit=limit, now=later(5)):
        pass


def parent(store: OneByOne, queue: str = "parents", **wanted: Any) -> int:
    return store.new(queue=queue, **wanted)


@pytest.mark.parametrize("first", ["after", "after_any"])
def test_r43_a_task_becomes_ready_once_its_last_parent_has_succeeded(
    store: OneByOne, first: str
) -> None:
    one, two = parent(store, "a"), parent(store, "b")
    child = store.new(**{first: (one,), "queue_timeout_ms": 50, "total_timeout_ms": 900})
    both = store.new(after=(one, two))

    before = store.task(child)
    assert (WAITING, 1, later(900)) == (before.state, before.blockers, before.fails_at)
    assert 2 == store.task(both).blockers
    assert not store.take(), "the claim passes over what waits"

    end(store, one)
    resolved(store)

    task = store.task(child)
    assert (READY, 0, later(5)) == (task.state, task.blockers, task.run_at)
    assert later(5 + 50) == task.fails_at, "the queue time-out counts from now"
    assert (WAITING, 1) == (store.task(both).state, store.task(both).blockers)

    end(store, two)
    resolved(store)
    assert READY is store.task(both).state


def test_a_later_start_counts_from_the_submit(store: OneByOne) -> None:
    one = parent(store)
    child = store.new(after=(one,), delay_ms=1000)

    end(store, one)
    resolved(store)

    assert (SCHEDULED, later(1000)) == (store.task(child).state, store.task(child).run_at)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("finished_before", [False, True])
@pytest.mark.parametrize("failed", [FAILED, CANCELLED])
def test_r43_what_a_parent_without_success_does_to_its_children(
    store: OneByOne, rule: ParentFailure | None, finished_before: bool, failed: TaskState
) -> None:
    one = parent(store)
    submit = {"after": (one,), "on_parent_failure": rule}
    child = 0 if finished_before else store.new(**submit)
    if failed is FAILED:
        end(store, one, FAILED)
    else:
        store.cancel(one, "no longer wanted", now=NOW)
    child = child or store.new(**submit)
    resolved(store)

    task = store.task(child)
    how = "failed" if failed is FAILED else "was cancelled"
    broken = CANCELLED if rule is ParentFailure.CANCEL else HELD
    if rule is ParentFailure.RUN:
        assert READY is task.state
    else:
        assert (broken, f"its parent {one} {how}") == (task.state, task.reason)
    assert (task.state in FINISHED) == (task.finished_at is not None)


def test_a_parent_that_finished_before_counts_at_once(store: OneByOne) -> None:
    one = parent(store)
    end(store, one)

    child = store.task(store.new(after=(one,)))

    assert (READY, 0) == (child.state, child.blockers)
    assert not store.column("awaited", one)


@pytest.mark.parametrize("rule", RULES)
def test_a_parent_that_does_not_exist_keeps_a_task_from_running(
    store: OneByOne, rule: ParentFailure | None
) -> None:
    for missing in (99, TaskKey("parents", "none")):
        wanted = new_task(after=(missing,), on_parent_failure=rule)
        with store.raw.snapshot():
            assert [missing] == store.raw.missing_parents([wanted])

        child = store.task(store.submit([wanted], now=NOW)[0].task_id)

        states = {None: HELD, ParentFailure.CANCEL: CANCELLED, ParentFailure.RUN: READY}
        assert states[rule] is child.state


def test_tasks_of_one_submit_name_each_other_by_key(store: OneByOne) -> None:
    tasks = [
        new_task(after=(TaskKey("q", "two"),)),
        new_task(queue="q", key="two", after=(TaskKey("q", "one"),)),
        new_task(queue="q", key="one"),
    ]
    with store.raw.snapshot():
        assert [] == store.raw.missing_parents(tasks)

    last, two, one = (made.task_id for made in store.submit(tasks, now=NOW))

    assert {last: WAITING, two: WAITING, one: READY} == store.states()
    with store.raw.snapshot():
        assert [two] == [dep.parent_id for dep in store.raw.parents([last], limit=9)]
        assert [two] == [dep.task_id for dep in store.raw.children(one, limit=9)]
    store.submit(tasks[1:2], now=NOW)  # the same again changes nothing
    end(store, one)
    resolved(store)
    assert (READY, WAITING) == (store.task(two).state, store.task(last).state)


def test_a_bulk_submit_keeps_its_parents(store: OneByOne) -> None:
    store.stage("bulk", 0, [new_task(key="one")], now=NOW)
    store.stage("bulk", 1, [new_task(after_any=(TaskKey("default", "one"),))], now=NOW)
    store.accept("bulk", now=NOW)
    while store.admit("bulk", now=NOW):
        pass

    assert [READY, WAITING] == [state for _, state in sorted(store.states().items())]


def test_a_retried_parent_is_waited_for_again(store: OneByOne) -> None:
    one, two = parent(store, "a"), parent(store, "b")
    child, both = store.new(after=(one,)), store.new(after=(one, two))
    gone = store.new(after=(one,), on_parent_failure=ParentFailure.CANCEL)
    kept = store.new(after=(one,))
    store.hold(kept, "mine", now=NOW)
    end(store, one, FAILED)
    end(store, two, FAILED)
    resolved(store)
    assert {HELD} == {store.task(one_of).state for one_of in (child, both, kept)}

    store.retry(one, now=NOW)

    task = store.task(child)
    assert (WAITING, 1, f"its parent {one} is retried") == (task.state, task.blockers, task.reason)
    assert HELD is store.task(both).state, "another parent failed"
    assert CANCELLED is store.task(gone).state
    assert (HELD, "mine") == (store.task(kept).state, store.task(kept).reason)

    store.retry(two, now=NOW)
    assert (WAITING, 2) == (store.task(both).state, store.task(both).blockers)
    store.retry(gone, now=NOW)
    assert (WAITING, 1) == (store.task(gone).state, store.task(gone).blockers)
    end(store, one)
    resolved(store)
    assert {READY} == {store.task(one_of).state for one_of in (child, gone)}


def test_an_operator_lets_a_task_go_on_step_by_step(store: OneByOne) -> None:
    one = parent(store)
    child = store.new(after=(one,))
    store.hold(child, "wait", now=NOW)

    store.release(child, now=NOW)
    assert WAITING is store.task(child).state, "its parent has not finished"
    store.release(child, now=NOW)
    task = store.task(child)
    assert (READY, 0) == (task.state, task.blockers)

    end(store, one, FAILED)
    resolved(store)
    assert READY is store.task(child).state


def test_an_operators_release_of_a_task_whose_parent_failed_lets_it_run(store: OneByOne) -> None:
    one = parent(store)
    child = store.new(after=(one,))
    end(store, one, FAILED)
    resolved(store)

    store.release(child, now=NOW)

    assert READY is store.task(child).state


@pytest.mark.parametrize("rule", [None, ParentFailure.CANCEL])
def test_r43_a_release_after_a_hold_lets_no_task_run_whose_parent_failed_meanwhile(
    store: OneByOne, rule: ParentFailure | None
) -> None:
    one = parent(store)
    child = store.new(after=(one,), on_parent_failure=rule)
    store.hold(child, "mine", now=NOW)
    end(store, one, FAILED)
    resolved(store)
    assert (HELD, "mine") == (store.task(child).state, store.task(child).reason)

    store.release(child, now=NOW)

    task = store.task(child)
    then = CANCELLED if rule is ParentFailure.CANCEL else HELD
    assert (then, f"its parent {one} failed") == (task.state, task.reason)
    if rule is None:
        store.retry(one, now=NOW)
        assert WAITING is store.task(child).state
        end(store, one, FAILED)
        resolved(store)
        store.release(child, now=NOW)
    else:
        store.retry(child, now=NOW)
    assert READY is store.task(child).state, "an operator lets it run all the same"
    with store.raw.snapshot():
        (left,) = store.raw.parents([child], limit=9)
    assert DependencyState.MET is left.state
    store.retry(one, now=NOW)
    assert (READY, 0) == (store.task(child).state, store.task(child).blockers)


def test_r43_a_hold_of_a_task_that_is_held_for_its_parent_outlasts_the_retry_of_that(
    store: OneByOne,
) -> None:
    one = parent(store)
    child = store.new(after=(one,))
    end(store, one, FAILED)
    resolved(store)

    store.hold(child, "held by an operator", replace_reason=False, now=NOW)
    store.retry(one, now=NOW)

    task = store.task(child)
    assert (HELD, "held by an operator", 1) == (task.state, task.reason, task.blockers)
    end(store, one)
    resolved(store)
    store.release(child, now=NOW)
    assert READY is store.task(child).state


def test_a_run_gets_the_results_of_its_parents(store: OneByOne) -> None:
    one = parent(store, "a", key="build")
    two = parent(store, "b")
    store.new(after=(one,), after_any=(two,), queue="children")
    (claim,) = store.take("a")
    store.end(claim)
    store.cancel(two, "no", now=NOW)
    resolved(store)

    (claim,) = store.take("children")

    build = {"id": one, "key": "build", "state": "succeeded", "outcome": "succeeded"}
    other = {"id": two, "key": None, "state": "cancelled", "outcome": None}
    assert [{**build, "result": None}, {**other, "result": None}] == json.loads(claim.parents or "")
    assert store.claimed().parents is None


@pytest.mark.parametrize("result", ['{"n": 1e400}', "123456789012345678901234567890", '"\\u0000"'])
def test_a_run_gets_a_result_as_it_was_reported(store: OneByOne, result: str) -> None:
    one = parent(store)
    store.new(after=(one,), queue="children")
    (claim,) = store.take("parents")
    declared = Declaration(task_id=one, lock=claim.lock, word=Declared.SUCCEED, result=result)
    store.declare(declared, now=NOW)
    store.end(claim)
    resolved(store)

    (claim,) = store.take("children")

    assert f'"result":{result}' in (claim.parents or "")


def test_a_result_that_was_changed_by_hand_is_null(store: OneByOne) -> None:
    one = parent(store)
    store.new(after=(one,), queue="children")
    end(store, one)
    with store.raw.transaction():
        store.sql("UPDATE runs SET result = :text", {"text": "{1"})
    resolved(store)

    (claim,) = store.take("children")

    assert '"result":null' in (claim.parents or "")


def test_a_parent_is_kept_while_a_child_needs_it(store: OneByOne) -> None:
    one = parent(store)
    child = store.new(after=(one,), queue="children")
    end(store, one)
    resolved(store)

    assert 0 == store.prune(before=later(9), limit=100).tasks
    end(store, child)
    store.prune(before=later(9), limit=100)
    assert store.task(one) is None


def test_a_parent_is_kept_until_its_end_is_passed_on(store: OneByOne) -> None:
    one = parent(store)
    child = store.new(after=(one,))
    store.cancel(child, "no", now=NOW)
    store.cancel(one, "no", now=NOW)

    assert 0 == store.prune_each([one], TaskFilter(), limit=100).tasks
    assert 1 == store.prune(before=later(9), limit=100).tasks, "the child alone"
    assert store.task(one) is not None
    resolved(store)
    assert 1 == store.prune(before=later(9), limit=100).tasks


def test_each_step_is_bounded_and_the_next_goes_on(store: OneByOne) -> None:
    one = parent(store)
    children = [store.new(after=(one,)) for _ in range(7)]
    end(store, one)

    assert [True, True, False] == [store.resolve(limit=3, now=NOW) for _ in range(3)]

    assert {READY} == {store.task(child).state for child in children}
    assert not store.column("awaited", one)


def test_a_step_says_whether_the_next_one_finds_more(store: OneByOne) -> None:
    parents = [parent(store) for _ in range(101)]
    children = [store.new(after=(one,)) for one in parents]
    cancelled = store.new(after=(parents[0],), on_parent_failure=ParentFailure.CANCEL)
    last = store.new(after=(cancelled,))
    for one in parents:
        store.cancel(one, "no", now=NOW)

    assert [True, False] == [store.resolve(limit=500, now=NOW) for _ in range(2)]
    assert {HELD} == {store.task(child).state for child in children}
    assert HELD is store.task(last).state, "its parent was cancelled in the first step"


def test_a_parent_that_is_named_twice_is_one(store: OneByOne) -> None:
    one = parent(store, key="build")
    wanted = new_task(after=(one,), after_any=(TaskKey("parents", "build"), one))

    child = store.submit([wanted], now=NOW)[0].task_id

    assert 1 == store.task(child).blockers
    with store.raw.snapshot():
        assert [(one, False)] == [
            (dep.parent_id, dep.any_outcome) for dep in store.raw.parents([child], limit=9)
        ]


def test_the_end_of_a_run_that_others_wait_for_gives_daemons_work(store: OneByOne) -> None:
    one = parent(store)
    store.new(after=(one,))
    (claim,) = store.take("parents")
    with store.raw.transaction():
        run = store.raw.take_runs([claim.run_uid]).get(claim.run_uid)
    assert run is not None
    assert True is run.awaited

    with store.raw.transaction():
        store.raw.settle([settlement(claim, awaited=run.awaited)], now=NOW)
        assert store.raw.announces
    with store.raw.snapshot():
        assert NOW == store.raw.next_work("", now=NOW)
        assert store.raw.has_unfinished()


@pytest.mark.parametrize("seed", range(8))
def test_random_worlds_end_as_a_plain_model_says(store: OneByOne, seed: int) -> None:
    rng, kin = random.Random(seed), Kin()
    ids: list[int] = []
    for _ in range(250):
        act = rng.choice(("submit", "submit", "run", "run", "run", "operate", "resolve"))
        if act == "submit":
            chosen = rng.sample(ids[-20:], k=min(len(ids), rng.randint(0, 4)))
            parents = {one: rng.random() < 0.3 for one in chosen}
            rule = rng.choice(RULES)
            task_id = store.new(
                queue=f"q{len(ids)}",
                after=tuple(one for one in parents if not parents[one]),
                after_any=tuple(one for one in parents if parents[one]),
                on_parent_failure=rule,
            )
            kin.submit(task_id, parents, rule)
            ids.append(task_id)
        elif act == "run":
            ready = [one for one in ids if kin.states[one] is READY]
            for task_id in rng.sample(ready, k=min(3, len(ready))):
                kin.states[task_id] = rng.choice((SUCCEEDED, SUCCEEDED, FAILED))
                end(store, task_id, kin.states[task_id])
        elif act == "operate" and ids:
            task_id, verb = rng.choice(ids), rng.choice(("cancel", "hold", "release", "retry"))
            why = ("why",) if verb in ("cancel", "hold") else ()
            getattr(store, verb)(task_id, *why, now=NOW)
            getattr(kin, verb)(task_id)
        else:
            resolved(store, limit=rng.choice((1, 3, 500)))
            kin.resolve()
            assert kin.states == store.states()
    resolved(store)
    kin.resolve()

    assert kin.states == store.states()
    for task_id in ids:
        assert (store.task(task_id).blockers or 0) == kin.blockers(task_id), task_id
