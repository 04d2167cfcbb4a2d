"""What a run's end means, as pure functions."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import wire
from dispatcher.model import MOVES, Liveness, OpenRun, Outcome, Settlement, TaskState
from dispatcher.policy import COUNTED, End, RetryPolicy, backoff_ms, settle, verdict
from dispatcher.times import StoreTime

NOW = StoreTime(1_000_000)
UID = wire.RunUid("0" * 32)
RETRY = RetryPolicy(max_deferrals=2, max_orphans=2)

RUN = OpenRun(
    task_id=1,
    run_id=1,
    run_uid=UID,
    fence=1,
    attempt=1,
    queue="default",
    liveness=Liveness.PROCESS,
    lease_ttl_ms=60_000,
    ending=None,
    ending_reason=None,
    pid=1,
    exit_code=None,
    signal=None,
    attempts=0,
    max_attempts=3,
    deferrals=0,
    orphans=0,
    owner="this-node",
)


def exited(ended_by: str | None = None, **facts: Any) -> wire.Exited:
    return wire.Exited(uid=UID, exit=wire.Exit(at=0.0, **facts), ended_by=ended_by)


def settled(run: OpenRun, end: End, retry: RetryPolicy = RETRY) -> Settlement:
    return settle(run, end, retry, now=NOW, ended_at=NOW, rng=random.Random(1))


@pytest.mark.parametrize(
    ("end", "outcome", "reason"),
    [
        (exited(exit_code=0), Outcome.SUCCEEDED, "exit code 0"),
        (exited(exit_code=1), Outcome.FAILED, "exit code 1"),
        (exited(exit_code=75), Outcome.DEFERRED, "exit code 75"),
        (exited(exit_code=78), Outcome.HELD, "exit code 78"),
        (exited(exit_code=79), Outcome.FAILED, "exit code 79"),
        (exited(exit_code=130), Outcome.FAILED, "exit code 130"),
        (exited(signal=11), Outcome.FAILED, "killed by SIGSEGV"),
        (exited(signal=63), Outcome.FAILED, "killed by signal 63"),
        (exited(exit_code=137, oom=True), Outcome.OOM_KILLED, "killed for lack of memory"),
        (exited(), Outcome.ORPHANED, "nobody saw how it ended"),
        (None, Outcome.ORPHANED, "nobody saw how it ended"),
        (exited("absence", signal=9), Outcome.ORPHANED, "ended by the executor: absence"),
        (exited("shutdown", signal=15), Outcome.RELEASED, "ended by the executor: shutdown"),
        (exited("run_timeout", signal=9), Outcome.TIMED_OUT, "ended by the executor: run_timeout"),
        (exited("cancelled", signal=9), Outcome.CANCELLED, "ended by the executor: cancelled"),
        (exited("swept", exit_code=7), Outcome.FAILED, "exit code 7"),
        (exited("swept"), Outcome.ORPHANED, "nobody saw how it ended"),
        (
            wire.StartFailed(uid=UID, fault=wire.Fault.TASK, error="no such program: 'x'"),
            Outcome.SPAWN_FAILED,
            "no such program: 'x'",
        ),
        *(
            (wire.StartFailed(uid=UID, fault=fault, error="why"), Outcome.RELEASED, "why")
            for fault in (wire.Fault.HOST, wire.Fault.LATE, wire.Fault.PREDECESSOR)
        ),
    ],
)
def test_how_a_run_ended_decides_its_outcome_R_32(end: End, outcome: Outcome, reason: str) -> None:
    judged = verdict(RUN, end)

    assert (outcome, reason) == (judged.outcome, judged.reason)


def test_an_ending_goes_before_what_the_process_said() -> None:
    ending = replace(RUN, ending=Outcome.CANCELLED, ending_reason="by operator")

    assert Outcome.CANCELLED == verdict(ending, exited(exit_code=0)).outcome
    assert Outcome.CANCELLED == verdict(ending, None).outcome


def test_a_status_that_was_seen_early_is_not_lost_with_the_executor() -> None:
    seen = replace(RUN, exit_code=7)

    settlement = settled(seen, None)

    assert (Outcome.FAILED, 7) == (settlement.outcome, settlement.exit_code)


def test_the_text_a_worker_printed_decides_nothing_R_36() -> None:
    settlement = settled(RUN, exited(exit_code=1, tail="429 unauthorized author 75 78"))

    assert Outcome.FAILED == settlement.outcome


@pytest.mark.parametrize("failures", [1, 2, 3, 10, 64, 100_000])
def test_backoff_doubles_up_to_its_bound_with_jitter_R_26(failures: int) -> None:
    retry = RetryPolicy(backoff_min_ms=100, backoff_max_ms=5_000)
    bound = min(5_000, 100 * 2 ** min(failures - 1, 20))

    delays = {backoff_ms(failures, retry, random.Random(seed)) for seed in range(50)}

    assert bound // 2 <= min(delays) < max(delays) <= bound


@pytest.mark.parametrize(
    ("end", "state"),
    [(exited(exit_code=75), TaskState.SCHEDULED), (exited(), TaskState.READY)],
)
def test_free_retries_are_bounded_and_then_held_R_41(end: End, state: TaskState) -> None:
    used_up = replace(RUN, deferrals=2, orphans=2)

    assert state == settled(replace(RUN, deferrals=1, orphans=1), end).state
    assert TaskState.HELD == settled(used_up, end).state
    assert "more than 2 times" in settled(used_up, end).reason


ENDS = st.one_of(
    st.none(),
    st.builds(
        exited,
        st.sampled_from([None, "absence", "shutdown", "run_timeout", "swept", "cancelled", "x"]),
        exit_code=st.none() | st.integers(0, 255),
        signal=st.none() | st.integers(1, 64),
        oom=st.booleans(),
    ),
    st.builds(
        wire.StartFailed, uid=st.just(UID), fault=st.sampled_from(wire.Fault), error=st.text()
    ),
)

RUNS = st.builds(
    replace,
    st.just(RUN),
    ending=st.none() | st.sampled_from(Outcome),
    attempts=st.integers(0, 2),
    deferrals=st.integers(0, 3),
    orphans=st.integers(0, 3),
)


@given(run=RUNS, end=ENDS)
def test_every_closed_run_is_accounted_for_once_R_39(run: OpenRun, end: End) -> None:
    settlement = settled(run, end)

    charged = (
        settlement.attempts - run.attempts,
        settlement.deferrals - run.deferrals,
        settlement.orphans - run.orphans,
    )
    expected = (
        int(settlement.outcome in COUNTED),
        int(settlement.outcome is Outcome.DEFERRED),
        int(settlement.outcome is Outcome.ORPHANED),
    )
    assert expected == charged
    assert settlement.state in MOVES[TaskState.RUNNING]
    assert settlement.reason
    assert settlement.run_reason
    assert (settlement.state is TaskState.SCHEDULED) == (settlement.run_at is not None)
    assert settlement.attempts <= run.max_attempts
