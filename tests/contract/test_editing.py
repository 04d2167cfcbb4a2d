"""An edit of a task that does not run: one statement, guarded by the state and the fence."""

import pytest
from msgspec.structs import replace

from dispatcher.model import Liveness, Outcome, Task, TaskState
from dispatcher.store.statements.operators import EDITABLE
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode
from tests.contract.helpers import NOW, OneByOne, later

WAITING = (TaskState.SCHEDULED, TaskState.READY, TaskState.HELD)
RETRIABLE = (TaskState.FAILED, TaskState.CANCELLED)

#: A new value for each column that an operator gives.
GIVEN: dict[str, object] = {
    "queue": "other",
    "priority": 7,
    "max_attempts": 9,
    "command": ("sh", "-c", "exit 3"),
    "cwd": "/elsewhere",
    "env": {"A": "b"},
    "labels": {"team": "data"},
    "requires": {"gpu": "a100"},
    "lease_ttl_ms": 1_234,
    "run_timeout_ms": 1_000,
    "stall_timeout_ms": 2_000,
    "start_timeout_ms": 3_000,
    "queue_timeout_ms": None,
    "total_timeout_ms": None,
    "kill_grace_ms": 0,
    "kill_signal": 2,
    "kill_mode": KillMode.LEADER,
    "backoff_min_ms": 1,
    "backoff_max_ms": 2,
    "cooldown_ms": 0,
    "max_deferrals": 0,
    "max_orphans": 7,
}


def in_state(store: OneByOne, state: TaskState, **wanted: object) -> Task:
    """Submit a task and bring it into a state."""
    claim = store.claimed(**wanted)
    if state is not TaskState.RUNNING:
        run_at = later(5_000) if state is TaskState.SCHEDULED else None
        store.end(claim, state=state, outcome=Outcome.FAILED, attempts_used=1, run_at=run_at)
    task: Task = store.task(claim.task_id)
    assert state is task.state
    return task


def test_the_columns_of_an_edit_are_those_of_these_tests() -> None:
    assert {*EDITABLE} == {*GIVEN, "state", "reason", "run_at"}


@pytest.mark.parametrize("state", [*WAITING, *RETRIABLE])
def test_all_that_was_given_can_be_changed_and_the_rest_stays(
    store: OneByOne, state: TaskState
) -> None:
    task = in_state(store, state, liveness=Liveness.WORKER, payload="{}", notify=True)
    after = replace(task, **GIVEN)

    assert store.edit(task, after, now=NOW)
    assert after == store.task(task.id)
    assert store.edit(after, task, now=NOW)
    assert task == store.task(task.id)


@pytest.mark.parametrize("state", [TaskState.RUNNING, TaskState.SUCCEEDED])
def test_a_task_that_runs_or_has_succeeded_is_not_changed(
    store: OneByOne, state: TaskState
) -> None:
    task = in_state(store, state)

    assert not store.edit(task, replace(task, priority=7), now=NOW)
    assert task == store.task(task.id)


def test_a_task_that_was_claimed_meanwhile_is_not_changed(store: OneByOne) -> None:
    task = in_state(store, TaskState.READY)
    (claim,) = store.take("own")

    assert not store.edit(task, replace(task, priority=7), now=NOW)
    store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY)
    assert not store.edit(task, replace(task, priority=7), now=NOW)
    assert 0 == store.task(task.id).priority


def test_a_claim_gets_what_was_edited(store: OneByOne) -> None:
    task = in_state(store, TaskState.READY)
    store.edit(
        task, replace(task, queue="q", command=("echo",), env={"A": "b"}, kill_grace_ms=3), now=NOW
    )

    (claim,) = store.take("q")

    assert (task.id, ("echo",), {"A": "b"}, 3) == (
        *(claim.task_id, claim.command, claim.env, claim.kill_grace_ms),
    )


# States ------------------------------------------------------------------------------------


def test_a_delay_makes_a_ready_task_scheduled_and_its_end_makes_it_ready(store: OneByOne) -> None:
    task = in_state(store, TaskState.READY)
    delayed = replace(task, state=TaskState.SCHEDULED, run_at=later(9), reason="delayed")

    assert store.edit(task, delayed, now=NOW)
    assert [] == store.take("own", now=later(8))
    assert delayed == store.task(task.id)

    again = replace(delayed, state=TaskState.READY, run_at=NOW, reason="no longer")
    assert store.edit(delayed, again, now=NOW)
    assert [task.id] == [claim.task_id for claim in store.take("own")]


@pytest.mark.parametrize(
    ("state", "to"),
    [
        (TaskState.HELD, TaskState.READY),
        (TaskState.HELD, TaskState.SCHEDULED),
        (TaskState.READY, TaskState.HELD),
        (TaskState.READY, TaskState.SUCCEEDED),
        (TaskState.SCHEDULED, TaskState.CANCELLED),
        (TaskState.FAILED, TaskState.READY),
    ],
)
def test_an_edit_makes_no_other_move(store: OneByOne, state: TaskState, to: TaskState) -> None:
    task = in_state(store, state)

    assert not store.edit(task, replace(task, state=to), now=NOW)
    assert task == store.task(task.id)


# Keys --------------------------------------------------------------------------------------


def test_a_task_does_not_move_to_a_queue_in_which_its_key_is_in_use(store: OneByOne) -> None:
    store.new(queue="other", key="k")
    task = store.task(store.new(queue="own", key="k"))

    assert not store.edit(task, replace(task, queue="other", priority=7), now=NOW)
    assert task == store.task(task.id)
    assert store.edit(task, replace(task, priority=7), now=NOW)
    assert store.edit(replace(task, priority=7), replace(task, queue="third"), now=NOW)


# Time-outs ---------------------------------------------------------------------------------


def fails_at(
    store: OneByOne, task: Task, *, now: StoreTime = NOW, **changes: object
) -> StoreTime | None:
    """Edit a task; return when it fails then."""
    assert store.edit(task, replace(task, **changes), now=now)
    after: Task = store.task(task.id)
    return after.fails_at


def test_a_total_time_out_counts_from_the_submit(store: OneByOne) -> None:
    task = store.task(store.new())

    assert later(900) == fails_at(store, task, total_timeout_ms=900)
    assert later(300) == fails_at(store, store.task(task.id), total_timeout_ms=300)
    assert None is fails_at(store, store.task(task.id), total_timeout_ms=None)
    assert None is store.column("total_at", task.id)


def test_a_total_time_out_counts_from_the_retry(store: OneByOne) -> None:
    task = in_state(store, TaskState.FAILED, total_timeout_ms=1_000)
    store.retry(task.id, now=later(5_000))

    assert later(5_300) == fails_at(store, store.task(task.id), total_timeout_ms=300)


def test_a_first_total_time_out_counts_from_the_retry_too(store: OneByOne) -> None:
    task = in_state(store, TaskState.FAILED)
    store.retry(task.id, now=later(5_000))

    assert later(5_300) == fails_at(store, store.task(task.id), total_timeout_ms=300)
    assert None is fails_at(store, store.task(task.id), total_timeout_ms=None)
    assert later(5_700) == fails_at(store, store.task(task.id), total_timeout_ms=700)
    (given_up,) = store.give_up(limit=9, now=later(5_700))
    assert "total_timeout: not done within 700ms of its retry" == given_up.reason


def test_a_first_total_time_out_counts_from_the_retry_of_a_run_that_was_ending(
    store: OneByOne,
) -> None:
    claim = store.claimed()
    store.end(claim, state=TaskState.READY, total_anew=True, now=later(5_000))

    assert later(5_300) == fails_at(store, store.task(claim.task_id), total_timeout_ms=300)


def test_the_queue_time_out_of_a_ready_task_counts_from_the_edit(store: OneByOne) -> None:
    task = store.task(store.new(delay_ms=50))
    assert None is fails_at(store, task, queue_timeout_ms=200)
    store.move_due(limit=9, now=later(90_000))

    ready = store.task(task.id)

    assert later(90_200) == ready.fails_at
    assert later(95_400) == fails_at(store, ready, now=later(95_000), queue_timeout_ms=400)
    kept = store.task(task.id)
    assert later(96_400) == fails_at(store, kept, now=later(96_000), total_timeout_ms=10**6)


def test_the_earlier_time_out_of_a_ready_task_counts(store: OneByOne) -> None:
    task = store.task(store.new(queue_timeout_ms=500, total_timeout_ms=900))

    assert later(500) == task.fails_at
    assert later(400) == fails_at(store, task, total_timeout_ms=400)
    assert later(100) == fails_at(store, store.task(task.id), queue_timeout_ms=100)
    assert later(400) == fails_at(store, store.task(task.id), queue_timeout_ms=None)


def test_a_delayed_task_has_its_total_time_out_alone(store: OneByOne) -> None:
    task = store.task(store.new(queue_timeout_ms=500, total_timeout_ms=900))

    assert later(900) == fails_at(
        store, task, state=TaskState.SCHEDULED, run_at=later(800), reason="delayed"
    )


def test_the_time_out_of_a_finished_task_begins_with_its_retry(store: OneByOne) -> None:
    task = in_state(store, TaskState.FAILED)

    assert None is fails_at(store, task, total_timeout_ms=900, queue_timeout_ms=300)
    store.retry(task.id, now=later(1_000))

    assert later(1_300) == store.task(task.id).fails_at


def test_an_edit_of_another_field_moves_no_time_out(store: OneByOne) -> None:
    task = store.task(store.new(queue_timeout_ms=500, total_timeout_ms=900))

    assert task.fails_at == fails_at(store, task, priority=3, run_timeout_ms=5)


# Damage ------------------------------------------------------------------------------------


def test_an_edit_repairs_the_column_that_it_sets_and_touches_no_other(store: OneByOne) -> None:
    task_id = store.new(labels={"a": "b"})
    with store.raw.transaction():
        store.sql("UPDATE tasks SET env = 'broken', labels = 'too'")
    task = store.task(task_id)

    assert store.edit(task, replace(task, env={"A": "b"}), now=NOW)

    assert {"A": "b"} == store.task(task_id).env
    assert "too" == store.column("labels", task_id)
    assert "damaged by hand: labels: " in store.task(task_id).reason


def test_a_released_task_keeps_its_edits(store: OneByOne) -> None:
    task = in_state(store, TaskState.HELD)
    store.edit(task, replace(task, max_attempts=1), now=NOW)
    assert TaskState.HELD is store.release(task.id, now=NOW)
    assert TaskState.HELD is store.task(task.id).state

    store.edit(store.task(task.id), replace(store.task(task.id), max_attempts=2), now=NOW)
    store.release(task.id, now=NOW)

    assert TaskState.READY is store.task(task.id).state
