"""The parameters of statements from the model's values."""

from __future__ import annotations

from typing import Final

import msgspec

from dispatcher.complaints import in_words
from dispatcher.errors import StoreRefused
from dispatcher.execution import Settlement
from dispatcher.model import FINISHED, NewTask, Outcome, TaskFilter, TaskState
from dispatcher.store.engine import Values
from dispatcher.times import StoreTime
from dispatcher.words import Declaration

#: Outcomes of which people ask what went wrong: their reason is the run's error.
WRONG: Final = frozenset(Outcome) - {
    Outcome.SUCCEEDED,
    Outcome.CANCELLED,
    Outcome.RELEASED,
    Outcome.DEFERRED,
    Outcome.HELD,
}

#: Above every id.
NO_ID: Final = 2**63 - 1


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise StoreRefused(f"a text {in_words(error)}") from error


def of_new_task(task: NewTask, now: StoreTime) -> Values:
    """Return the parameters of `statements.SUBMIT`. Raises `StoreRefused` on broken Unicode."""
    return {
        "state": "scheduled" if task.delay_ms else "ready",
        "reason": "delayed by its submitter" if task.delay_ms else "submitted",
        "queue": task.queue,
        "priority": task.priority,
        "key": task.key,
        "liveness": task.liveness.value,
        "lease_ttl_ms": task.lease_ttl_ms,
        "max_attempts": task.max_attempts,
        "now": now,
        "run_at": now + task.delay_ms,
        "cwd": task.cwd,
        "labels": _json(task.labels),
        "env": _json(task.env),
        "command": _json(task.command),
    }


def of_limits(task: NewTask, now: StoreTime) -> dict[str, object] | None:
    """Return the parameters of `statements.SUBMIT_LIMITS`; None for a task without any."""
    if task.kill_mode is None and (
        task.run_timeout_ms
        is task.stall_timeout_ms
        is task.start_timeout_ms
        is task.queue_timeout_ms
        is task.total_timeout_ms
        is task.kill_grace_ms
        is task.kill_signal
        is None
    ):
        return None
    total_at = None if task.total_timeout_ms is None else now + task.total_timeout_ms
    waits = None if task.delay_ms or task.queue_timeout_ms is None else now + task.queue_timeout_ms
    return {
        "run_timeout_ms": task.run_timeout_ms,
        "stall_timeout_ms": task.stall_timeout_ms,
        "start_timeout_ms": task.start_timeout_ms,
        "queue_timeout_ms": task.queue_timeout_ms,
        "total_timeout_ms": task.total_timeout_ms,
        "kill_grace_ms": task.kill_grace_ms,
        "kill_signal": task.kill_signal,
        "kill_mode": task.kill_mode,
        "total_at": total_at,
        "fails_at": min((at for at in (total_at, waits) if at is not None), default=None),
    }


def of_profile(task_id: int, task: NewTask) -> Values:
    """Return the parameters of `statements.SUBMIT_PROFILE`."""
    return {
        "task_id": task_id,
        "profile": task.profile,
        "rules": _json(task.rules) if task.rules else None,
    }


def of_declaration(declaration: Declaration, now: StoreTime) -> dict[str, object]:
    """Return the parameters of `statements.DECLARE`."""
    return {
        "now": now,
        "task_id": declaration.task_id,
        "lock": declaration.lock,
        "declared": declaration.word.value,
        "reason": declaration.reason,
        "delay_ms": declaration.delay_ms,
        "retry": declaration.retry,
        "result": declaration.result,
    }


def of_settlement(settlement: Settlement, now: StoreTime) -> Values:
    """Return the parameters of `statements.CLOSE` and `statements.MOVE_ON`."""
    return {
        "uid": settlement.run_uid,
        "outcome": settlement.outcome.value,
        "run_reason": settlement.run_reason,
        "error": settlement.run_reason if settlement.outcome in WRONG else None,
        "ended_at": settlement.ended_at,
        "started_at": settlement.started_at,
        "pid": settlement.pid,
        "exit_code": settlement.exit_code,
        "signal": settlement.signal,
        "output_tail": settlement.output_tail,
        "max_rss_bytes": settlement.max_rss_bytes,
        "cpu_seconds": settlement.cpu_seconds,
        "now": now,
        "state": settlement.state.value,
        "reason": settlement.reason,
        "run_at": settlement.run_at,
        "finished_at": now if settlement.state in FINISHED else None,
        "attempts_used": settlement.attempts_used,
        "deferrals": settlement.deferrals,
        "orphans": settlement.orphans,
    }


def of_remains(settlement: Settlement) -> Values | None:
    """Return the parameters of `statements.REMAINS`; None where a run left nothing to note."""
    left_alone, leftovers = settlement.left_alone, settlement.leftovers
    if not (left_alone or leftovers or settlement.output_truncated):
        return None
    return {
        "uid": settlement.run_uid,
        "left_alone": _json(left_alone) if left_alone else None,
        "leftovers": _json(leftovers) if leftovers else None,
        "output_truncated": settlement.output_truncated,
    }


def of_filter(wanted: TaskFilter) -> Values:
    """Return the parameters of `statements.TASKS`."""
    states = frozenset(TaskState) if wanted.states is None else wanted.states
    label, labelled = wanted.label or (None, None)
    return {
        **{state.value: state.value if state in states else None for state in TaskState},
        "queue": wanted.queue,
        "profile": wanted.profile,
        "text": None if wanted.text is None else _json(wanted.text)[1:-1],
        "since": 0 if wanted.since is None else wanted.since,
        "until": NO_ID if wanted.until is None else wanted.until,
        "after_id": -1 if wanted.after_id is None else wanted.after_id,
        "before_id": NO_ID if wanted.before_id is None else wanted.before_id,
        "label": label,
        "labelled": labelled,
        "limit": wanted.limit,
    }
