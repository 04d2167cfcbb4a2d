"""The meaning of a run's end, as pure functions."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.execution import Limits, OpenRun, RetryPolicy, Settlement
from dispatcher.model import INTENDED, MOVES, Declared, Intent, Liveness, Outcome, TaskState
from dispatcher.policy import COUNTED, End, backoff_ms, postponed, settle, verdict
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
    attempts_used=0,
    max_attempts=3,
    deferrals=0,
    orphans=0,
    owner="this-node",
    retry=RETRY,
)


def exited(ended_by: str | None = None, **facts: Any) -> wire.Exited:
    return wire.Exited(uid=UID, exit=wire.Exit(at=0.0, **facts), ended_by=ended_by)


def settled(run: OpenRun, end: End) -> Settlement:
    return settle(run, end, now=NOW, ended_at=NOW, rng=random.Random(1))


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
        (exited(signal=9), Outcome.FAILED, "killed by SIGKILL"),
        (exited(signal=9, oom=True), Outcome.OOM_KILLED, "killed for lack of memory"),
        (
            exited(signal=9, oom=True, oom_doubtful=True),
            Outcome.OOM_KILLED,
            "probably killed for lack of memory: such a kill was counted, maybe of another run",
        ),
        (
            exited(exit_code=137, oom=True),
            Outcome.OOM_KILLED,
            "exit code 137: a process of it was killed for lack of memory",
        ),
        (exited(), Outcome.ORPHANED, "its exit was not seen"),
        (None, Outcome.ORPHANED, "its exit was not seen"),
        (exited("absence", signal=9), Outcome.ORPHANED, "ended by the executor: absence"),
        (exited("shutdown", signal=15), Outcome.RELEASED, "ended by the executor: shutdown"),
        (exited("run_timeout", signal=9), Outcome.TIMED_OUT, "ended by the executor: run_timeout"),
        (exited("cancelled", signal=9), Outcome.CANCELLED, "ended by the executor: cancelled"),
        (exited("swept", exit_code=7), Outcome.FAILED, "exit code 7"),
        (exited("swept"), Outcome.ORPHANED, "its exit was not seen"),
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
def test_r32_how_a_run_ended_decides_its_outcome(end: End, outcome: Outcome, reason: str) -> None:
    judged = verdict(RUN, end)

    assert (outcome, reason) == (judged.outcome, judged.reason)


def test_an_ending_takes_precedence_over_the_exit_of_the_process() -> None:
    ending = replace(RUN, ending=Outcome.CANCELLED, ending_reason="by operator")

    assert Outcome.CANCELLED == verdict(ending, exited(exit_code=0)).outcome
    assert Outcome.CANCELLED == verdict(ending, None).outcome


def test_a_status_that_was_seen_early_is_not_lost_with_the_executor() -> None:
    seen = replace(RUN, exit_code=7)

    settlement = settled(seen, None)

    assert (Outcome.FAILED, 7) == (settlement.outcome, settlement.exit_code)


def test_r36_the_text_a_worker_printed_decides_nothing() -> None:
    settlement = settled(RUN, exited(exit_code=1, tail="429 unauthorized author 75 78"))

    assert Outcome.FAILED == settlement.outcome


@pytest.mark.parametrize("failures", [1, 2, 3, 10, 64, 100_000])
def test_r26_backoff_doubles_up_to_its_bound_with_jitter(failures: int) -> None:
    retry = RetryPolicy(backoff_min_ms=100, backoff_max_ms=5_000)
    bound = min(5_000, 100 * 2 ** min(failures - 1, 20))

    delays = {backoff_ms(failures, retry, random.Random(seed)) for seed in range(50)}

    assert bound // 2 <= min(delays) < max(delays) <= bound


@pytest.mark.parametrize(
    ("end", "state"),
    [(exited(exit_code=75), TaskState.SCHEDULED), (exited(), TaskState.READY)],
)
def test_r41_free_retries_are_bounded_and_then_held(end: End, state: TaskState) -> None:
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
    attempts_used=st.integers(0, 2),
    deferrals=st.integers(0, 3),
    orphans=st.integers(0, 3),
)


@given(run=RUNS, end=ENDS)
def test_r39_every_closed_run_is_accounted_for_once(run: OpenRun, end: End) -> None:
    settlement = settled(run, end)

    charged = (
        settlement.attempts_used - run.attempts_used,
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
    assert settlement.attempts_used <= run.max_attempts


# An operator's intent ----------------------------------------------------------------------------


ENDED = {
    Outcome.FAILED: exited(exit_code=1),
    Outcome.DEFERRED: exited(exit_code=75),
    Outcome.HELD: exited(exit_code=78),
    Outcome.ORPHANED: None,
    Outcome.SPAWN_FAILED: wire.StartFailed(uid=UID, fault=wire.Fault.TASK, error="no such"),
    Outcome.RELEASED: wire.StartFailed(uid=UID, fault=wire.Fault.HOST, error="no memory"),
}


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.SUCCEEDED])
@pytest.mark.parametrize("intent", Intent)
def test_a_task_goes_where_an_operator_sent_it_and_is_charged_as_its_run_ended(
    intent: Intent, outcome: Outcome
) -> None:
    ending = None if outcome in ENDED else outcome
    run = replace(
        RUN, ending=ending, ending_reason="why", intent=intent, intent_reason="an operator"
    )
    without_intent = settled(
        replace(run, intent=None, intent_reason=None), ENDED.get(outcome, exited())
    )

    found = settled(run, ENDED.get(outcome, exited()))

    assert (outcome, INTENDED[intent]) == (found.outcome, found.state)
    assert ("an operator", None) == (found.reason, found.run_at)
    charged = (found.attempts_used, found.deferrals, found.orphans)
    anew = intent is Intent.RETRY
    assert (
        (0, 0, 0)
        if anew
        else (without_intent.attempts_used, without_intent.deferrals, without_intent.orphans)
    ) == charged
    assert anew == found.total_anew


@pytest.mark.parametrize("intent", Intent)
def test_no_intent_undoes_a_success(intent: Intent) -> None:
    run = replace(RUN, intent=intent, intent_reason="an operator")

    for done in (
        settled(run, exited(exit_code=0)),
        settled(replace(run, declared=Declared.SUCCEED, ending=Outcome.CANCELLED), exited()),
    ):
        assert (Outcome.SUCCEEDED, TaskState.SUCCEEDED) == (done.outcome, done.state)


def test_nothing_is_released_that_has_no_attempt_left() -> None:
    run = replace(RUN, max_attempts=1, intent=Intent.RELEASE, intent_reason="an operator")

    found = settled(run, exited(exit_code=1))

    assert (TaskState.FAILED, "exit code 1 (attempt 1 of 1)") == (found.state, found.reason)


@pytest.mark.parametrize(
    ("intent", "state"),
    [
        (Intent.HOLD, TaskState.FAILED),
        (Intent.RELEASE, TaskState.FAILED),
        (Intent.CANCEL, TaskState.CANCELLED),
        (Intent.RETRY, TaskState.READY),
    ],
)
def test_only_a_retry_runs_a_task_again_after_its_total_time(
    intent: Intent, state: TaskState
) -> None:
    run = replace(RUN, limits=Limits(total_at=NOW), intent=intent, intent_reason="an operator")

    assert state is settled(run, exited(exit_code=1)).state


def test_a_retried_start_that_failed_waits_and_its_total_time_begins_anew() -> None:
    limits = Limits(total_at=StoreTime(NOW - 1))
    run = replace(RUN, limits=limits, intent=Intent.RETRY, intent_reason="an operator")
    until = StoreTime(NOW + 1_000)

    found = postponed(settled(run, ENDED[Outcome.RELEASED]), until=until, total_at=limits.total_at)

    assert (TaskState.SCHEDULED, until, True) == (found.state, found.run_at, found.total_anew)


@pytest.mark.parametrize(
    ("total_at", "reason"),
    [(None, "run_timeout: not done within 3s"), (NOW, "total_timeout is over")],
)
def test_a_local_claim_that_ran_out_of_time_timed_out(
    total_at: StoreTime | None, reason: str
) -> None:
    limits = Limits(run_timeout_ms=3_000, total_at=total_at)
    run = replace(RUN, owner="local:me", lease_expires_at=NOW, deadline_at=NOW, limits=limits)

    found = settled(run, None)

    assert Outcome.TIMED_OUT is found.outcome
    assert found.run_reason.startswith(reason)
    assert 1 == found.attempts_used
    silent = replace(run, lease_expires_at=StoreTime(NOW - 1))
    assert Outcome.LOST is settled(silent, None).outcome


def test_a_profiles_rule_for_137_holds_also_where_memory_ran_out() -> None:
    run = replace(RUN, rules={"137": "deferred"})

    found = verdict(run, exited(exit_code=137, oom=True))

    assert (Outcome.DEFERRED, "exit code 137, by its profile") == (found.outcome, found.reason)
