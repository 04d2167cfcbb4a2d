"""Parameters of statements, made from the model's values.

Words are bound by their `value`, as plain text.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from dispatcher import lanes
from dispatcher.complaints import in_words
from dispatcher.errors import StoreRefused
from dispatcher.execution import Settlement
from dispatcher.model import FINISHED, Node, Outcome, Task, TaskFilter, TaskState
from dispatcher.new_task import NewTask, Wait
from dispatcher.store.engine import Values, refuse_nul
from dispatcher.store.statements.moves import OF_PARENT
from dispatcher.store.statements.nodes import RECORDED
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


def command_text(task: NewTask) -> str:
    """Return a command as its column holds it."""
    return _json(task.command)


def new_task_parameters(
    task: NewTask, now: StoreTime, delay_ms: int, wait: Wait
) -> dict[str, object]:
    """Return the columns of a task that are not NULL, without its environment.

    Raises `StoreRefused` on broken Unicode.
    """
    state, reason = wait.begins(task, delayed=delay_ms > 0)
    total_at = None if task.total_timeout_ms is None else now + task.total_timeout_ms
    claimed_by = None
    if state is TaskState.READY and task.queue_timeout_ms is not None:
        claimed_by = now + task.queue_timeout_ms
    is_over = state in FINISHED
    values = {
        **{name: getattr(task, name) for name in SUBMITTED_FIELDS},
        "notify": task.notify or None,
        "liveness": task.liveness.value,
        "command": _json(task.command),
        "env": _json(task.env),
        "labels": _json(task.labels),
        "requires": _json(task.requires) if task.requires else None,
        "takes": _json(dict(sorted(task.takes.items()))) if task.takes else None,
        "rules": _json(task.rules) if task.profile is not None and task.rules else None,
        "state": state.value,
        "reason": reason,
        "lane": _lane(task) or None,
        "key_due": True if task.concurrency_key and state is TaskState.READY else None,
        "rank": _rank(task, now),
        "blockers": wait.blockers,
        "hold_kind": OF_PARENT if state is TaskState.HELD else None,
        "created_at": now,
        "run_at": now + delay_ms,
        "finished_at": now if is_over else None,
        "total_at": total_at,
        "fails_at": None
        if is_over
        else min((at for at in (total_at, claimed_by) if at is not None), default=None),
    }
    return {name: value for name, value in values.items() if value is not None}


def _rank(task: NewTask, now: StoreTime) -> int:
    try:
        return lanes.rank(now, task.priority, task.ageing_ms)
    except TypeError as error:
        raise StoreRefused(f"no row can hold it: priority: {error}") from error


def _lane(task: NewTask | Task) -> str:
    """Return the lane of a task that does not run, until it gets its concurrency key, if any."""
    return lanes.BEHIND if task.concurrency_key else lanes.lane(task.requires, task.takes)


def edited_columns(before: Task, after: Task) -> Values:
    """Return the columns to change. Raises `StoreRefused` on broken Unicode."""
    changed = {
        name: value for name in EDITABLE if (value := getattr(after, name)) != getattr(before, name)
    }
    as_json = changed.keys() & {"command", "env", "labels", "requires"}
    texts: dict[str, object] = {name: _json(changed[name]) for name in as_json}
    if changed.get("requires") == {}:
        texts["requires"] = None
    if "requires" in changed:
        texts["lane"] = _lane(after)
    if after.concurrency_key and changed.keys() & {"requires", "queue"}:
        texts |= {"lane": lanes.BEHIND, "key_due": after.state is TaskState.READY}
    if "priority" in changed:
        texts["rank"] = lanes.rank(after.created_at, after.priority, after.ageing_ms)
    return {**changed, **texts}


def labels_text(labels: Mapping[str, str]) -> str:
    """Return the labels of a node as `FITS` takes them."""
    return _json(labels) if labels else "{}"


def node_parameters(node: Node) -> dict[str, object]:
    """Return the columns of a node that its daemon writes."""
    values = {name: getattr(node, name) for name in RECORDED}
    obeys = None if node.obeys is None else _json(node.obeys)
    return {**values, "labels": labels_text(node.labels), "obeys": obeys}


def edit_parameters(before: Task, after: Task, now: StoreTime) -> Values:
    """Return the parameters of `edit` but for the columns to change."""
    return {
        "id": before.id,
        "was": before.state.value,
        "fence": before.fence,
        "becomes": after.state.value,
        "moved_to": after.queue,
        "total_ms": after.total_timeout_ms,
        "queue_ms": after.queue_timeout_ms,
        "now": now,
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


def closing(settlement: Settlement) -> Values:
    """Return a row of `CLOSE`, without what is unknown."""
    left_alone, leftovers = settlement.left_alone, settlement.leftovers
    values = {
        "uid": settlement.run_uid,
        "outcome": settlement.outcome.value,
        "run_reason": settlement.run_reason,
        "error": settlement.run_reason if settlement.outcome in FAULTS else None,
        "ended_at": settlement.ended_at,
        "started_at": settlement.started_at,
        "pid": settlement.pid,
        "exit_code": settlement.exit_code,
        "signal": settlement.signal,
        "output_tail": settlement.output_tail,
        "output_truncated": settlement.output_truncated or None,
        "max_rss_bytes": settlement.max_rss_bytes,
        "cpu_seconds": settlement.cpu_seconds,
        "left_alone": _json(left_alone) if left_alone else None,
        "leftovers": _json(leftovers) if leftovers else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def moving_on(settlement: Settlement) -> Values:
    """Return a row of `moves.SETTLE`."""
    return {
        "id": settlement.task_id,
        "uid": settlement.run_uid,
        "state": settlement.state.value,
        "reason": settlement.reason,
        "run_at": settlement.run_at,
        "attempts_used": settlement.attempts_used,
        "deferrals": settlement.deferrals,
        "orphans": settlement.orphans,
        "total_anew": settlement.total_anew,
        "by_worker": settlement.by_worker,
    }


def filter_parameters(wanted: TaskFilter) -> Values:
    """Return the parameters of `TASKS`. Raises `StoreRefused` for a text with a NUL."""
    states = frozenset(TaskState) if wanted.states is None else wanted.states
    label, labelled = wanted.label or (None, None)
    texts = {
        "queue": wanted.queue,
        "profile": wanted.profile,
        "text": wanted.text,
        "label": label,
        "labelled": labelled,
    }
    refuse_nul(texts)
    return {
        **{state.value: state.value if state in states else None for state in TaskState},
        **texts,
        "since": 0 if wanted.since is None else wanted.since,
        "until": NO_ID if wanted.until is None else wanted.until,
        "finished_before": wanted.finished_before,
        "after_id": -1 if wanted.after_id is None else wanted.after_id,
        "before_id": NO_ID if wanted.before_id is None else wanted.before_id,
        "limit": wanted.limit,
    }
