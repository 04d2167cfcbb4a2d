"""The model's values from rows, and the parameters of statements from the model's values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Final

import msgspec

from dispatcher.complaints import in_words
from dispatcher.config.durations import Milliseconds
from dispatcher.errors import StoreRefused
from dispatcher.model import (
    FINISHED,
    NO_LIMITS,
    Declared,
    GivenUp,
    Intent,
    Limits,
    Liveness,
    NewTask,
    Node,
    OpenRun,
    Outcome,
    Run,
    Settlement,
    Task,
    TaskFilter,
    TaskState,
)
from dispatcher.store.engine import Row, Values
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode
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

_UNLIMITED: Final = (None,) * 5

_TASK: Final = tuple(field.name for field in fields(Task))
_RUN: Final = tuple(field.name for field in fields(Run))
_NODE: Final = tuple(field.name for field in fields(Node))

command_from = msgspec.json.Decoder(tuple[str, ...]).decode
strings_from = msgspec.json.Decoder(dict[str, str]).decode


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
        "attempts": settlement.attempts,
        "deferrals": settlement.deferrals,
        "orphans": settlement.orphans,
    }


def of_finished(states: Collection[TaskState]) -> dict[str, object]:
    """Return the parameters that name states of finished tasks; None for one not wanted."""
    return {state.value: state.value if state in states else None for state in sorted(FINISHED)}


def of_left_alone(settlement: Settlement) -> Values:
    """Return the parameters of `statements.LEAVE_ALONE`."""
    return {"uid": settlement.run_uid, "names": _json(settlement.left_alone)}


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


def open_run_from(row: Row) -> OpenRun:
    """Return the value of a row of `statements.OPEN_RUN` and its kind."""
    return OpenRun(
        task_id=row[0],
        run_id=row[1],
        run_uid=row[2],
        fence=row[3],
        attempt=row[4],
        queue=row[5],
        liveness=Liveness(row[6]),
        lease_ttl_ms=row[7],
        ending=row[8] and Outcome(row[8]),
        ending_reason=row[9],
        pid=row[10],
        exit_code=row[11],
        signal=row[12],
        declared=row[13] and Declared(row[13]),
        declared_reason=row[14],
        declared_delay_ms=row[15],
        declared_retry=row[16] is None or bool(row[16]),
        attempts=row[17],
        max_attempts=row[18],
        deferrals=row[19],
        orphans=row[20],
        last_heartbeat_at=row[21],
        progressed_at=row[22],
        limits=limits_from(row[23:28]),
        kill_grace_ms=row[28],
        owner=row[29],
        rules=strings_from(row[30]) if row[30] else {},
        output_path=row[31],
        intent=row[32] and Intent(row[32]),
        intent_reason=row[33],
        lease_expires_at=row[34],
        deadline_at=row[35],
    )


def limits_from(row: Row) -> Limits:
    """Return the value of a run's five limits, as every statement on runs has them."""
    if row == _UNLIMITED:
        return NO_LIMITS
    run, stall, start, total_at, kill_signal = row
    return Limits(
        run_timeout_ms=run,
        stall_timeout_ms=stall,
        start_timeout_ms=start,
        total_at=total_at,
        kill_signal=kill_signal,
    )


def given_up_from(row: Row, now: StoreTime) -> GivenUp:
    """Return the value of a row of `statements.OVERDUE`: which of its time-outs is over."""
    task_id, queue, queue_timeout_ms, total_timeout_ms, total_at = row
    if total_at is not None and total_at <= now:
        reason = f"total_timeout: not done within {Milliseconds(total_timeout_ms)} of its submit"
        return GivenUp(task_id=task_id, queue=queue, timeout="total_timeout", reason=reason)
    reason = f"queue_timeout: not claimed within {Milliseconds(queue_timeout_ms)}"
    return GivenUp(task_id=task_id, queue=queue, timeout="queue_timeout", reason=reason)


def task_from(row: Row) -> Task:
    """Return the value of a row of `statements.TASK` and `TASKS`."""
    named = dict(zip(_TASK, row, strict=True))
    named["state"] = TaskState(named["state"])
    named["command"] = command_from(named["command"])
    named["env"] = strings_from(named["env"])
    named["labels"] = strings_from(named["labels"])
    named["liveness"] = Liveness(named["liveness"])
    named["kill_mode"] = named["kill_mode"] and KillMode(named["kill_mode"])
    named["notify"] = bool(named["notify"])
    named["ending"] = named["ending"] and Outcome(named["ending"])
    named["intent"] = named["intent"] and Intent(named["intent"])
    return Task(**named)


def run_from(row: Row) -> Run:
    """Return the value of a row of `statements.RUNS`."""
    named = dict(zip(_RUN, row, strict=True))
    named["outcome"] = named["outcome"] and Outcome(named["outcome"])
    named["left_alone"] = command_from(named["left_alone"]) if named["left_alone"] else ()
    return Run(**named)


def node_from(row: Row) -> Node:
    """Return the value of a row of `statements.NODES`."""
    return Node(**dict(zip(_NODE, row, strict=True)))
