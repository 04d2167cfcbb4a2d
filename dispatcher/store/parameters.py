"""Parameters of statements, made from the model's values.

Words are bound by their `value`, as plain text.
"""

from dataclasses import fields
from typing import Final

import msgspec

from dispatcher.complaints import in_words
from dispatcher.errors import StoreRefused
from dispatcher.execution import Settlement
from dispatcher.model import FINISHED, Outcome, Task, TaskFilter, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.engine import Values
from dispatcher.store.statements.operators import EDITABLE
from dispatcher.store.statements.submitters import SUBMITTED_FIELDS
from dispatcher.times import StoreTime
from dispatcher.words import Declaration

#: Outcomes that are faults: their reason is the run's error.
FAULTS: Final = frozenset(Outcome) - {
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


def new_task_parameters(task: NewTask, now: StoreTime) -> dict[str, object]:
    """Return the columns of a task that are not NULL, without its environment.

    Raises `StoreRefused` on broken Unicode.
    """
    total_at = None if task.total_timeout_ms is None else now + task.total_timeout_ms
    waits = None if task.delay_ms or task.queue_timeout_ms is None else now + task.queue_timeout_ms
    values = {
        **{name: getattr(task, name) for name in SUBMITTED_FIELDS},
        "notify": task.notify or None,
        "liveness": task.liveness.value,
        "command": _json(task.command),
        "env": _json(task.env),
        "labels": _json(task.labels),
        "rules": _json(task.rules) if task.profile is not None and task.rules else None,
        "state": "scheduled" if task.delay_ms else "ready",
        "reason": "delayed by its submitter" if task.delay_ms else "submitted",
        "created_at": now,
        "run_at": now + task.delay_ms,
        "total_at": total_at,
        "fails_at": min((at for at in (total_at, waits) if at is not None), default=None),
    }
    return {name: value for name, value in values.items() if value is not None}


def edited_columns(before: Task, after: Task) -> Values:
    """Return the columns to change. Raises `StoreRefused` on broken Unicode."""
    changed = {
        name: value for name in EDITABLE if (value := getattr(after, name)) != getattr(before, name)
    }
    as_json = changed.keys() & {"command", "env", "labels"}
    return {**changed, **{name: _json(changed[name]) for name in as_json}}


def edit_parameters(before: Task, after: Task, now: StoreTime) -> Values:
    """Return the parameters of `edit` but for the columns to change."""
    waits_ms = after.queue_timeout_ms if after.state is TaskState.READY else None
    return {
        "id": before.id,
        "was": before.state.value,
        "fence": before.fence,
        "becomes": after.state.value,
        "moved_to": after.queue,
        "total_ms": after.total_timeout_ms,
        "claim_by": None if waits_ms is None else now + waits_ms,
    }


def declaration_parameters(declaration: Declaration, now: StoreTime) -> dict[str, object]:
    """Return the parameters of `DECLARE`."""
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


def settlement_parameters(settlement: Settlement, now: StoreTime) -> Values:
    """Return the parameters of `CLOSE` and `MOVE_ON`."""
    return {
        **{field.name: getattr(settlement, field.name) for field in fields(Settlement)},
        "uid": settlement.run_uid,
        "outcome": settlement.outcome.value,
        "state": settlement.state.value,
        "error": settlement.run_reason if settlement.outcome in FAULTS else None,
        "now": now,
        "finished_at": now if settlement.state in FINISHED else None,
    }


def remains_parameters(settlement: Settlement) -> Values | None:
    """Return the parameters of `REMAINS`; None where a run left nothing."""
    left_alone, leftovers = settlement.left_alone, settlement.leftovers
    if not (left_alone or leftovers or settlement.output_truncated):
        return None
    return {
        "uid": settlement.run_uid,
        "left_alone": _json(left_alone) if left_alone else None,
        "leftovers": _json(leftovers) if leftovers else None,
        "output_truncated": settlement.output_truncated,
    }


def filter_parameters(wanted: TaskFilter) -> Values:
    """Return the parameters of `TASKS`."""
    states = frozenset(TaskState) if wanted.states is None else wanted.states
    label, labelled = wanted.label or (None, None)
    return {
        **{state.value: state.value if state in states else None for state in TaskState},
        "queue": wanted.queue,
        "profile": wanted.profile,
        "text": wanted.text,
        "since": 0 if wanted.since is None else wanted.since,
        "until": NO_ID if wanted.until is None else wanted.until,
        "finished_before": wanted.finished_before,
        "after_id": -1 if wanted.after_id is None else wanted.after_id,
        "before_id": NO_ID if wanted.before_id is None else wanted.before_id,
        "label": label,
        "labelled": labelled,
        "limit": wanted.limit,
    }
