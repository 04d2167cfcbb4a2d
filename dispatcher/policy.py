"""Decides the outcome of a run and the next state of its task: pure functions.

`settle` accounts for every closed run.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from dispatcher import exit_codes, wire
from dispatcher.execution import OpenRun, RetryPolicy, Settlement
from dispatcher.model import INTENDED, Declared, Intent, Outcome, TaskState
from dispatcher.quantities import signal_names
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import StoreTime

#: Outcomes that charge an attempt.
COUNTED = frozenset(
    {
        Outcome.FAILED,
        Outcome.LOST,
        Outcome.TIMED_OUT,
        Outcome.STALLED,
        Outcome.OOM_KILLED,
        Outcome.SPAWN_FAILED,
    }
)

#: The task's next state after outcomes that charge no budget.
UNCOUNTED = {
    Outcome.SUCCEEDED: TaskState.SUCCEEDED,
    Outcome.HELD: TaskState.HELD,
    Outcome.CANCELLED: TaskState.CANCELLED,
}

#: States in which a task's total time-out still counts.
WAITING = frozenset({TaskState.READY, TaskState.SCHEDULED, TaskState.HELD})

#: Reason of a run or task that ended by its total time-out.
TOTAL_OVER = "total_timeout is over"

#: Outcomes of runs that the executor ended on its own.
ENDED_BY: Mapping[str, Outcome] = {
    wire.EndedBy.ABSENCE: Outcome.ORPHANED,
    wire.EndedBy.RUN_TIMEOUT: Outcome.TIMED_OUT,
    wire.EndedBy.SHUTDOWN: Outcome.RELEASED,
}

#: Exit codes with a meaning of their own, after sysexits.h; that of a lost lease is a failure.
EXIT_CODES: Mapping[int, Outcome] = {
    exit_codes.ExitCode.OK: Outcome.SUCCEEDED,
    exit_codes.ExitCode.TEMPORARY: Outcome.DEFERRED,
    exit_codes.ExitCode.CONFIG: Outcome.HELD,
}

DECLARED: Mapping[Declared, Outcome] = {
    Declared.SUCCEED: Outcome.SUCCEEDED,
    Declared.FAIL: Outcome.FAILED,
    Declared.DEFER: Outcome.DEFERRED,
    Declared.HOLD: Outcome.HELD,
}

#: The executor's report of a run's end; None if no executor knows the run.
End = wire.Exited | wire.StartFailed | None


class Verdict(Struct, frozen=True):
    outcome: Outcome
    reason: str


def backoff_ms(failures: int, retry: RetryPolicy, rng: random.Random) -> int:
    """Return a random delay after the n-th failure, from b/2 to b, where b doubles up to a bound.

    The jitter keeps tasks that failed together from starting together again (R-26).
    """
    doublings = min(failures - 1, 62)  # more would exceed any bound
    bound = min(retry.backoff_max_ms, retry.backoff_min_ms << doublings)
    return rng.randint(bound // 2, bound)


def verdict(run: OpenRun, end: End) -> Verdict:
    """Return a run's outcome: by its declaration, otherwise its ending, otherwise its exit."""
    if run.declared is not None:
        return Verdict(DECLARED[run.declared], run.declared_reason or "declared by the worker")
    if run.ending is not None:
        return Verdict(run.ending, run.ending_reason or run.ending)
    if isinstance(end, wire.StartFailed):
        blamed = Outcome.SPAWN_FAILED if end.fault is wire.Fault.TASK else Outcome.RELEASED
        return Verdict(blamed, end.error or f"not started: {end.fault}")
    if end is not None and end.ended_by is not None:
        outcome = outcome_of_ending(end.ended_by)
        if outcome is not None:
            return Verdict(outcome, f"ended by the executor: {end.ended_by}")
    if end is not None and end.exit.oom and str(end.exit.exit_code) not in run.rules:
        return Verdict(Outcome.OOM_KILLED, _oom_killed(end.exit))
    return _verdict_of_status(run, *_status(run, end))


def outcome_of_ending(ended_by: str) -> Outcome | None:
    """Return the outcome of an ending that the executor reports; None for an unknown one."""
    try:
        return ENDED_BY.get(ended_by) or Outcome(ended_by)
    except ValueError:
        return None


def settle(
    run: OpenRun,
    end: End,
    *,
    now: StoreTime,
    ended_at: StoreTime,
    rng: random.Random,
    started: tuple[int, StoreTime] | None = None,
) -> Settlement:
    """Return the settlement of a run that is over: outcome, next state and budgets of its task.

    `started` is the leader's pid and start, if they were not recorded before.
    """
    judged = verdict(run, end)
    account = _account(run, judged, now, rng)
    account = _within_total(run, judged, _as_intended(run, judged, account), now)
    exit_code, signum = _status(run, end)
    evidence = end.exit if isinstance(end, wire.Exited) else None
    return Settlement(
        run_uid=run.run_uid,
        task_id=run.task_id,
        outcome=judged.outcome,
        run_reason=judged.reason,
        awaited=run.awaited,
        **account._asdict(),
        by_worker=run.declared is not None and run.intent is None,
        exit_code=exit_code,
        signal=signum,
        output_tail=evidence.tail if evidence else None,
        max_rss_bytes=evidence.max_rss_bytes if evidence else None,
        cpu_seconds=evidence.cpu_seconds if evidence else None,
        pid=started[0] if started else None,
        started_at=started[1] if started else None,
        ended_at=ended_at,
        left_alone=evidence.left_alone if evidence else (),
        leftovers=evidence.leftovers if evidence else (),
        output_truncated=evidence.output_truncated if evidence else 0,
    )


def next_state(run: OpenRun, *, now: StoreTime) -> TaskState:
    """Return the state of a task if its run were settled now without an exit."""
    delay_is_unused = random.Random(0)  # noqa: S311
    return settle(run, None, now=now, ended_at=now, rng=delay_is_unused).state


def postponed(
    settlement: Settlement, *, until: StoreTime, total_at: StoreTime | None
) -> Settlement:
    """Return a settlement whose task, if it would be ready, is scheduled for later."""
    if settlement.state is not TaskState.READY:
        return settlement
    within = total_at is not None and not settlement.total_anew
    run_at = min(until, total_at) if within and total_at is not None else until
    return replace(settlement, state=TaskState.SCHEDULED, run_at=run_at)


class _Account(NamedTuple):
    """The part of a settlement that concerns the task."""

    state: TaskState
    reason: str
    attempts_used: int
    deferrals: int
    orphans: int
    run_at: StoreTime | None = None
    total_anew: bool = False


def _charged(run: OpenRun, outcome: Outcome) -> Outcome:
    """Return the outcome whose budget is charged: a profile may turn `lost` into `orphaned`."""
    return Outcome(run.rules.get("lost", outcome)) if outcome is Outcome.LOST else outcome


def is_charged(run: OpenRun, outcome: Outcome) -> bool:
    """Return whether an outcome of a run uses up an attempt."""
    return _charged(run, outcome) in COUNTED


def _account(run: OpenRun, judged: Verdict, now: StoreTime, rng: random.Random) -> _Account:
    retry, outcome, reason = run.retry, _charged(run, judged.outcome), judged.reason
    attempts_used = run.attempts_used + (outcome in COUNTED)
    deferrals = run.deferrals + (outcome is Outcome.DEFERRED)
    orphans = run.orphans + (outcome is Outcome.ORPHANED)
    delay_ms = None
    if outcome in COUNTED:
        reason = f"{reason} (attempt {attempts_used} of {run.max_attempts})"
        state = TaskState.FAILED
        if attempts_used < run.max_attempts and not (run.declared and not run.declared_retry):
            state, delay_ms = TaskState.SCHEDULED, backoff_ms(attempts_used, retry, rng)
            reason = f"back-off after {outcome}: {reason}"
    elif outcome is Outcome.DEFERRED and deferrals <= retry.max_deferrals:
        state = TaskState.SCHEDULED
        delay_ms = retry.cooldown_ms if run.declared_delay_ms is None else run.declared_delay_ms
        reason = f"cool-down after deferral {deferrals} of {retry.max_deferrals}: {reason}"
    elif outcome is Outcome.ORPHANED and orphans <= retry.max_orphans:
        state, reason = TaskState.READY, f"orphaned: {reason}"
    elif outcome in {Outcome.DEFERRED, Outcome.ORPHANED}:
        times = retry.max_deferrals if outcome is Outcome.DEFERRED else retry.max_orphans
        state, reason = TaskState.HELD, f"{outcome} more than {times} times: {reason}"
    elif outcome is Outcome.RELEASED:
        state, reason = TaskState.READY, f"released: {reason}"
    else:
        state = UNCOUNTED[outcome]
    run_at = None if delay_ms is None else StoreTime(now + delay_ms)
    return _Account(state, reason, attempts_used, deferrals, orphans, run_at)


def _as_intended(run: OpenRun, judged: Verdict, account: _Account) -> _Account:
    """Return the account with the state of an operator's intent; budgets stay charged.

    An intent has no effect on a run that succeeded.
    """
    if run.intent is None or judged.outcome is Outcome.SUCCEEDED:
        return account
    moved = account._replace(
        state=INTENDED[run.intent], reason=run.intent_reason or "", run_at=None
    )
    if run.intent is Intent.RETRY:
        return moved._replace(attempts_used=0, deferrals=0, orphans=0, total_anew=True)
    if run.intent is Intent.RELEASE and account.attempts_used >= run.max_attempts:
        return account
    return moved


def _within_total(run: OpenRun, judged: Verdict, account: _Account, now: StoreTime) -> _Account:
    """Return the account limited by the total time-out: fail the task if it is over.

    A later `run_at` moves to the end of that time, when the waiting task fails.
    """
    total_at = None if account.total_anew else run.limits.total_at
    if total_at is None or account.state not in WAITING:
        return account
    if total_at <= now:
        reason = TOTAL_OVER
        if judged.reason != TOTAL_OVER:
            reason = f"{judged.outcome}: {judged.reason}; {TOTAL_OVER}"
        return account._replace(state=TaskState.FAILED, reason=reason, run_at=None)
    if account.run_at is not None and account.run_at > total_at:
        return account._replace(run_at=total_at)
    return account


def _status(run: OpenRun, end: End) -> tuple[int | None, int | None]:
    """Return exit code and signal of this report, otherwise those recorded earlier."""
    if isinstance(end, wire.Exited) and (end.exit.exit_code, end.exit.signal) != (None, None):
        return end.exit.exit_code, end.exit.signal
    return run.exit_code, run.signal


def _verdict_of_status(run: OpenRun, exit_code: int | None, signum: int | None) -> Verdict:
    if signum is not None:
        return Verdict(Outcome.FAILED, f"killed by {signal_names.name_of(signum)}")
    if exit_code is None and run.ran_out_of_time:
        return Verdict(Outcome.TIMED_OUT, _time_over(run))
    if exit_code is None and run.is_local:
        silence = f"its lease of {run.lease_ttl_ms / 1000:g} s expired: no heartbeat"
        return Verdict(Outcome.LOST, silence)
    if exit_code is None:
        return Verdict(Outcome.ORPHANED, "its exit was not seen")
    if (ruled := run.rules.get(str(exit_code))) is not None:
        return Verdict(Outcome(ruled), f"exit code {exit_code}, by its profile")
    return Verdict(EXIT_CODES.get(exit_code, Outcome.FAILED), f"exit code {exit_code}")


def _oom_killed(seen: wire.Exit) -> str:
    killed = "killed for lack of memory"
    if seen.oom_doubtful:
        killed = f"probably {killed}: such a kill was counted, maybe of another run"
    if seen.exit_code is None:
        return killed
    return f"exit code {seen.exit_code}: a process of it was {killed}"


def _time_over(run: OpenRun) -> str:
    if run.deadline_at == run.limits.total_at:
        return TOTAL_OVER
    return f"run_timeout: not done within {Milliseconds(run.limits.run_timeout_ms or 0)}"
