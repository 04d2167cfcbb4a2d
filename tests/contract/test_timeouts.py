"""Time-outs of tasks in the store: which deadline holds in which state."""

from typing import Any

import pytest

from dispatcher.errors import StoreRefused
from dispatcher.execution import NO_LIMITS, GivenUp, Limits
from dispatcher.model import Liveness, Outcome, TaskState
from dispatcher.words import Beat
from tests.contract.helpers import NODE, NOW, OneByOne, later

QUEUE, TOTAL = 1_000, 10_000
BOTH = {"queue_timeout_ms": QUEUE, "total_timeout_ms": TOTAL}
RUN = {
    "run_timeout_ms": 1,
    "stall_timeout_ms": 2,
    "start_timeout_ms": 3,
    "kill_grace_ms": 0,
    "kill_signal": 10,
}


def settled(store: OneByOne, state: TaskState, *, now: int, **wanted: Any) -> int:
    """Claim a task, end its run so that it goes to a state; return its id."""
    claim = store.claimed(**wanted)
    facts = {"run_at": later(now)} if state is TaskState.SCHEDULED else {}
    assert store.end(claim, outcome=Outcome.RELEASED, state=state, now=later(now), **facts)
    return claim.task_id


def given_up(store: OneByOne, now: int, limit: int = 9) -> list[int]:
    return [one.task_id for one in store.give_up(limit=limit, now=later(now))]


# Which deadline --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "fails_at"),
    [
        ({}, None),
        ({"queue_timeout_ms": QUEUE}, QUEUE),
        ({"total_timeout_ms": TOTAL}, TOTAL),
        (BOTH, QUEUE),
        ({**BOTH, "total_timeout_ms": 500}, 500),
        ({"queue_timeout_ms": QUEUE, "delay_ms": 7}, None),
        ({**BOTH, "delay_ms": 7}, TOTAL),
    ],
)
def test_a_submitted_task_fails_at_the_first_deadline_of_its_state(
    store: OneByOne, wanted: dict[str, int], fails_at: int | None
) -> None:
    task = store.task(store.new(**wanted))

    assert (None if fails_at is None else later(fails_at)) == task.fails_at


@pytest.mark.parametrize(
    ("wanted", "fails_at"),
    [
        ({}, None),
        ({"queue_timeout_ms": QUEUE}, 5_000 + QUEUE),
        ({"total_timeout_ms": TOTAL}, TOTAL),
        (BOTH, 5_000 + QUEUE),
        ({**BOTH, "queue_timeout_ms": 9_999}, TOTAL),
    ],
)
def test_a_waiting_period_begins_when_the_task_becomes_ready(
    store: OneByOne, wanted: dict[str, int], fails_at: int | None
) -> None:
    due = store.new(delay_ms=5_000, **wanted)
    store.move_due(limit=9, now=later(5_000))
    released = settled(store, TaskState.READY, now=5_000, **wanted)

    for task_id in (due, released):
        expected = None if fails_at is None else later(fails_at)
        assert (TaskState.READY, expected) == (
            store.task(task_id).state,
            store.task(task_id).fails_at,
        )


@pytest.mark.parametrize("state", [TaskState.SCHEDULED, TaskState.HELD])
def test_a_task_that_is_not_ready_has_only_its_total_timeout(
    store: OneByOne, state: TaskState
) -> None:
    assert later(TOTAL) == store.task(settled(store, state, now=5, **BOTH)).fails_at


@pytest.mark.parametrize("state", [TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED])
def test_a_finished_task_does_not_fail_later(store: OneByOne, state: TaskState) -> None:
    settled(store, state, now=5, **BOTH)

    assert store.next_failure() is None
    assert [] == given_up(store, 10 * TOTAL)


def test_a_running_task_is_not_failed_by_the_store(store: OneByOne) -> None:
    store.claimed(**BOTH)

    assert store.next_failure() is None
    assert [] == given_up(store, 10 * TOTAL)


def test_a_cancelled_task_is_not_given_up(store: OneByOne) -> None:
    store.cancel(store.new(**BOTH), "operator", now=NOW)

    assert [] == given_up(store, 10 * TOTAL)


def test_a_retried_task_has_its_whole_time_again(store: OneByOne) -> None:
    total, queue, both, short, none = (
        settled(store, TaskState.FAILED, now=5, queue=name, **wanted)
        for name, wanted in [
            ("a", {"total_timeout_ms": TOTAL}),
            ("b", {"queue_timeout_ms": QUEUE}),
            ("c", BOTH),
            ("d", {**BOTH, "total_timeout_ms": 500}),
            ("e", {}),
        ]
    )
    for task_id in (total, queue, both, short, none):
        store.retry(task_id, now=later(50_000))

    assert [TOTAL, QUEUE, QUEUE, 500] == [
        store.task(task_id).fails_at - later(50_000) for task_id in (total, queue, both, short)
    ]
    assert store.task(none).fails_at is None
    (claim,) = store.take("c", now=later(50_001))
    assert later(50_000 + TOTAL) == claim.limits.total_at


# Giving up -------------------------------------------------------------------------------


def test_a_task_is_given_up_at_its_deadline_and_not_before(store: OneByOne) -> None:
    task_id = store.new(queue_timeout_ms=QUEUE)

    assert later(QUEUE) == store.next_failure()
    assert [] == given_up(store, QUEUE - 1)
    answer = store.give_up(limit=9, now=later(QUEUE))

    reason = "queue_timeout: not claimed within 1s"
    expected = GivenUp(task_id=task_id, queue="default", timeout="queue_timeout", reason=reason)
    assert [expected] == answer
    task = store.task(task_id)
    assert (TaskState.FAILED, reason, later(QUEUE), None) == (
        task.state,
        task.reason,
        task.finished_at,
        task.fails_at,
    )
    assert [] == store.runs(task_id)
    assert store.next_failure() is None


@pytest.mark.parametrize("state", [TaskState.READY, TaskState.SCHEDULED, TaskState.HELD])
def test_total_time_ends_every_kind_of_waiting(store: OneByOne, state: TaskState) -> None:
    task_id = settled(store, state, now=5, total_timeout_ms=TOTAL)

    (one,) = store.give_up(limit=9, now=later(TOTAL))

    assert (task_id, "total_timeout") == (one.task_id, one.timeout)
    assert "total_timeout: not done within 10s of its submit" == store.task(task_id).reason


def test_they_are_given_up_in_batches_the_longest_overdue_first(store: OneByOne) -> None:
    ids = [store.new(queue_timeout_ms=ms) for ms in (300, 100, 200)]

    assert [ids[1], ids[2]] == given_up(store, 1_000, limit=2)
    assert [ids[0]] == given_up(store, 1_000, limit=2)


# Runs ------------------------------------------------------------------------------------


def test_a_claim_and_its_open_run_carry_their_limits(store: OneByOne) -> None:
    claim = store.claimed(**RUN, total_timeout_ms=TOTAL)

    limits = Limits(
        run_timeout_ms=1,
        stall_timeout_ms=2,
        start_timeout_ms=3,
        total_at=later(TOTAL),
        kill_signal=10,
    )
    assert limits == claim.limits
    assert limits == store.open_run(claim.run_uid).limits
    assert [limits] == [run.limits for run in store.open_runs(NODE)]


def test_a_task_without_limits_has_none(store: OneByOne) -> None:
    claim = store.claimed()

    assert claim.limits is NO_LIMITS
    assert store.open_run(claim.run_uid).limits is NO_LIMITS


def test_r06_only_another_report_is_progress(store: OneByOne) -> None:
    claim = store.claimed(liveness=Liveness.WORKER)

    def after_beat(at: int, **report: Any) -> Any:
        store.heartbeat([Beat(task_id=claim.task_id, lock=claim.lock, **report)], now=later(at))
        run = store.open_run(claim.run_uid)
        assert later(at) == run.last_heartbeat_at
        return run.progressed_at

    assert after_beat(1) is None
    assert later(2) == after_beat(2, progress=0.5)
    assert later(2) == after_beat(3, progress=0.5)
    assert later(2) == after_beat(4)
    assert later(5) == after_beat(5, note="page 3")
    assert later(5) == after_beat(6, progress=0.5, note="page 3")
    assert later(7) == after_beat(7, progress=0.25, note="page 3")


def test_the_next_run_begins_without_progress(store: OneByOne) -> None:
    claim = store.claimed(liveness=Liveness.WORKER)
    store.heartbeat([Beat(task_id=claim.task_id, lock=claim.lock, progress=0.5)], now=later(1))
    store.end(claim, outcome=Outcome.FAILED, state=TaskState.READY)
    (again,) = store.take("own")

    run = store.open_run(again.run_uid)

    assert (None, None) == (run.progressed_at, run.last_heartbeat_at)


# Rows that must not exist ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "wrong"),
    [
        ({}, "fails_at = 1"),
        (BOTH, "fails_at = NULL"),
        (BOTH, "total_at = NULL"),
        (BOTH, "total_timeout_ms = NULL"),
        ({"total_timeout_ms": TOTAL}, "fails_at = 1"),
        ({"delay_ms": 1, **BOTH}, "fails_at = 1"),
        (BOTH, "state = 'held'"),
        (BOTH, "state = 'cancelled', finished_at = 1"),
        *(({}, f"{name}_timeout_ms = 0") for name in ("run", "stall", "start", "queue")),
        (BOTH, "total_timeout_ms = 0"),
        ({}, "kill_grace_ms = -1"),
        ({}, "kill_signal = 0"),
        *(({}, f"{name} = -1") for name in ("backoff_min_ms", "backoff_max_ms", "cooldown_ms")),
        ({}, "max_deferrals = -1"),
        ({}, "max_orphans = -1"),
        ({}, "backoff_min_ms = 2, backoff_max_ms = 1"),
    ],
)
def test_r57_no_waiting_task_is_like_this(
    store: OneByOne, wanted: dict[str, Any], wrong: str
) -> None:
    store.new(**wanted)

    with pytest.raises(StoreRefused), store.raw.transaction():
        store.sql(f"UPDATE tasks SET {wrong}")


def test_r57_no_running_task_fails_by_itself(store: OneByOne) -> None:
    store.claimed(**BOTH)

    with pytest.raises(StoreRefused), store.raw.transaction():
        store.sql("UPDATE tasks SET fails_at = 1")
