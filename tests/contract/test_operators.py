import pytest
from msgspec.structs import replace

from dispatcher.model import Outcome, PausedQueue, Pruned, TaskState
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NODE, NOW, OneByOne, later

FINISHED = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


def task_in(store: OneByOne, state: TaskState) -> int:
    """Bring a task into a state; its budgets are partly used."""
    claim = store.claimed()
    if state is TaskState.RUNNING:
        return claim.task_id
    store.end(claim, state=state, attempts_used=1, deferrals=2, orphans=3, now=later(1))
    return claim.task_id


# Cancel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [TaskState.SCHEDULED, TaskState.READY, TaskState.HELD])
def test_a_task_that_waits_is_cancelled_at_once(store: OneByOne, state: TaskState) -> None:
    task_id = task_in(store, state)

    was = store.cancel(task_id, "not needed", now=later(9))

    task = store.task(task_id)
    assert state is was
    assert (TaskState.CANCELLED, "not needed", later(9)) == (
        task.state,
        task.reason,
        task.finished_at,
    )


def test_the_ending_of_a_running_task_is_begun(store: OneByOne) -> None:
    claim = store.claimed()

    was = store.cancel(claim.task_id, "not needed", now=later(9))

    (ending,) = store.endings(NODE)
    assert TaskState.RUNNING is was
    assert (ending.ending, ending.ending_reason) == (Outcome.CANCELLED, "not needed")
    assert TaskState.RUNNING is store.task(claim.task_id).state


def test_a_cancel_does_not_replace_an_ending(store: OneByOne) -> None:
    claim = store.claimed()
    store.begin_ending(claim.run_uid, Outcome.LOST, "silent", now=NOW)

    was = store.cancel(claim.task_id, "not needed", now=NOW)

    assert TaskState.RUNNING is was
    assert Outcome.LOST is store.task(claim.task_id).ending


@pytest.mark.parametrize("state", FINISHED)
def test_a_finished_task_is_not_cancelled(store: OneByOne, state: TaskState) -> None:
    task_id = task_in(store, state)
    before = store.task(task_id)

    assert state is store.cancel(task_id, "not needed", now=later(9))
    assert before == store.task(task_id)


def test_an_unknown_task_is_neither_cancelled_nor_retried(store: OneByOne) -> None:
    assert None is store.cancel(7, "not needed", now=NOW)
    assert None is store.retry(7, now=NOW)


# Retry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.CANCELLED, TaskState.HELD])
def test_a_retried_task_is_ready_with_all_its_budgets(store: OneByOne, state: TaskState) -> None:
    task_id = task_in(store, state)

    was = store.retry(task_id, now=later(9))

    task = store.task(task_id)
    assert state is was
    assert (task.state, task.reason) == (TaskState.READY, "retried by operator")
    assert (task.attempts_used, task.deferrals, task.orphans) == (0, 0, 0)
    assert (None, later(9), 1) == (task.finished_at, task.run_at, task.fence)
    assert [task_id] == [claim.task_id for claim in store.take("own")]


@pytest.mark.parametrize(
    "state",
    [
        TaskState.SCHEDULED,
        TaskState.READY,
        TaskState.RUNNING,
        TaskState.SUCCEEDED,
    ],
)
def test_any_other_task_is_not_retried(store: OneByOne, state: TaskState) -> None:
    task_id = task_in(store, state)
    before = store.task(task_id)

    assert state is store.retry(task_id, now=later(9))
    assert before == store.task(task_id)


# Prune -------------------------------------------------------------------------------------


def test_the_oldest_finished_tasks_go_first_with_their_runs_and_outputs(store: OneByOne) -> None:
    young = store.claimed()
    old = store.claimed()
    store.end(old, outcome=Outcome.RELEASED, state=TaskState.READY)
    (again,) = store.take("own")
    store.end(again, now=later(10))
    store.end(young, now=later(20))

    pruned = store.prune(before=later(100), limit=3)

    assert Pruned(1, pruned.output_paths, more=True) == pruned
    assert {old.output_path, again.output_path} == set(pruned.output_paths)
    assert None is store.task(old.task_id)
    assert store.runs(old.task_id) == []
    assert len(store.runs(young.task_id)) == 1


def test_r56_a_task_with_very_many_runs_is_pruned_in_bounded_steps(store: OneByOne) -> None:
    claim = store.claimed()
    for _ in range(4):
        store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY)
        (claim,) = store.take("own")
    store.end(claim)

    steps = [store.prune(before=later(1), limit=2) for _ in range(4)]

    found = [(step.tasks, len(step.output_paths), step.more) for step in steps]
    assert [(0, 2, True), (0, 2, True), (1, 1, False), (0, 0, False)] == found
    assert store.states() == {}


def test_r56_long_payloads_are_pruned_few_at_a_time(store: OneByOne) -> None:
    for _ in range(3):
        store.cancel(store.new(payload=f'"{"x" * 300_000}"'), "not needed", now=NOW)

    steps = [store.prune(before=later(1), limit=limit) for limit in (10, 2, 2)]

    assert [(2, True), (1, False), (0, False)] == [(step.tasks, step.more) for step in steps]


def test_prune_takes_the_oldest_of_the_wanted_states_and_nothing_of_others(store: OneByOne) -> None:
    made = [
        (store.finished(queue=f"q{number}", now=later(number)), state)
        for number, state in enumerate((*FINISHED, *FINISHED), start=1)
    ]
    with store.raw.transaction():
        for task_id, state in made:
            store.sql(
                "UPDATE tasks SET state = :state WHERE id = :id",
                {"id": task_id, "state": state.value},
            )
    wanted = {TaskState.FAILED, TaskState.CANCELLED}

    store.prune(before=later(10), limit=4, states=wanted)

    left = [(task_id, state) for task_id, state in made if task_id in store.states()]
    assert [one for one in made if one[1] is TaskState.SUCCEEDED] == [
        one for one in left if one[1] is TaskState.SUCCEEDED
    ]
    assert 4 == len(left)


def test_a_task_that_never_ran_is_pruned_without_output(store: OneByOne) -> None:
    task_id = store.new()
    store.cancel(task_id, "not needed", now=NOW)

    assert Pruned(1, ()) == store.prune(before=later(1), limit=10)
    assert store.states() == {}


def test_a_pruned_task_takes_its_payload_along(store: OneByOne, raw: SqlStore) -> None:
    task_id = store.new(payload='"long"')
    store.cancel(task_id, "not needed", now=NOW)

    store.prune(before=later(1), limit=10)

    with raw.snapshot():
        assert [] == raw.engine.rows("SELECT task_id FROM payloads")


def test_tasks_that_are_not_finished_or_not_old_enough_stay(store: OneByOne) -> None:
    kept = [store.new(), store.new(delay_ms=1), task_in(store, TaskState.HELD)]
    kept.append(store.claimed(queue="busy").task_id)
    kept.append(store.finished(queue="young", now=later(10)))

    assert store.prunable(before=later(10)) == 0
    assert Pruned(0, ()) == store.prune(before=later(10), limit=100)
    assert sorted(kept) == sorted(store.states())


def test_the_store_returns_the_runs_that_it_knows_open_or_closed(store: OneByOne) -> None:
    open_one, closed = store.claimed(), store.claimed()
    store.end(closed, now=later(1))
    gone = store.claimed()
    store.end(gone, now=NOW)
    store.prune(before=later(1), limit=10)

    uids = [open_one.run_uid, closed.run_uid, gone.run_uid, "f" * 32]
    assert {open_one.run_uid, closed.run_uid} == store.known_runs(uids)


def test_prunable_counts_what_prune_would_take(store: OneByOne) -> None:
    for milliseconds in (1, 2, 3):
        store.finished(queue=f"q{milliseconds}", now=later(milliseconds))

    assert [store.prunable(before=later(ms)) for ms in (1, 3, 4)] == [0, 2, 3]


# Hold, release ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [TaskState.SCHEDULED, TaskState.READY])
def test_a_task_that_waits_is_held_and_released_with_the_budgets_it_had(
    store: OneByOne, state: TaskState
) -> None:
    task_id = task_in(store, state)
    before = store.task(task_id)

    assert state is store.hold(task_id, "disk is full", now=later(5))
    held = store.task(task_id)
    assert (TaskState.HELD, "disk is full") == (held.state, held.reason)
    assert [] == store.claim("default", limit=1, node=NODE, output_dir="/o", now=later(6))

    assert TaskState.HELD is store.release(task_id, now=later(7))
    freed = store.task(task_id)
    assert (TaskState.READY, later(7)) == (freed.state, freed.run_at)
    assert (before.attempts_used, before.deferrals, before.orphans) == (
        freed.attempts_used,
        freed.deferrals,
        freed.orphans,
    )


def test_the_hold_of_a_running_task_begins_the_ending_held(store: OneByOne) -> None:
    claim = store.claimed()

    assert TaskState.RUNNING is store.hold(claim.task_id, "look at it", now=later(9))

    (ending,) = store.endings(NODE)
    assert (ending.ending, ending.ending_reason) == (Outcome.HELD, "look at it")


def test_a_held_task_is_held_for_the_newest_reason(store: OneByOne) -> None:
    task_id = task_in(store, TaskState.HELD)
    before = store.task(task_id)

    assert TaskState.HELD is store.hold(task_id, "no", replace_reason=False, now=later(8))
    assert before == store.task(task_id)

    assert TaskState.HELD is store.hold(task_id, "ask Ada", now=later(9))
    assert replace(before, reason="ask Ada") == store.task(task_id)


@pytest.mark.parametrize("state", FINISHED)
def test_a_task_that_is_over_is_not_held(store: OneByOne, state: TaskState) -> None:
    task_id = task_in(store, state)
    before = store.task(task_id)

    assert state is store.hold(task_id, "no", now=later(9))
    assert before == store.task(task_id)


@pytest.mark.parametrize("state", [*FINISHED, TaskState.READY, TaskState.SCHEDULED])
def test_only_a_held_task_is_released(store: OneByOne, state: TaskState) -> None:
    task_id = task_in(store, state)
    before = store.task(task_id)

    assert state is store.release(task_id, now=later(9))
    assert before == store.task(task_id)


def test_nobody_is_held_or_released(store: OneByOne) -> None:
    assert store.hold(99, "no", now=NOW) is None
    assert store.release(99, now=NOW) is None


# Pause, resume -----------------------------------------------------------------------------------


def test_from_a_paused_queue_nobody_claims_until_it_is_resumed(store: OneByOne) -> None:
    for queue in ("a", "b", "c"):
        store.new(queue=queue)

    assert store.pause("b", "upgrade", now=later(1))
    assert not store.pause("b", "again", now=later(2))
    assert [PausedQueue("b", "upgrade", later(1))] == store.paused_queues()
    assert ["a", "c"] == store.ready_queues(after="", limit=9)
    assert ["c", "a"] == store.ready_queues(after="b", limit=9)
    assert ["a"] == store.ready_queues(after="c", limit=1)

    assert store.resume("b", now=NOW)
    assert not store.resume("b", now=NOW)
    assert ["c", "a", "b"] == store.ready_queues(after="b", limit=9)
    assert [] == store.paused_queues()
