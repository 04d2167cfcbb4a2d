"""What is submitted: one task at once, or parts of many that are put aside until all are there.

What is put aside is no task yet: it has no id, and its keys keep nobody out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, Final

import msgspec

from dispatcher.errors import StoreRefused
from dispatcher.model import NewTask, Submitted
from dispatcher.store import statements
from dispatcher.store.engine import Engine
from dispatcher.store.values import of_limits, of_new_task, of_profile
from dispatcher.times import StoreTime

#: Milliseconds of silence after which others go on with what a client had accepted, and after
#: which what it put aside, or would still like to read, goes: it is dead, or stopped for long.
GO_ON_AFTER: Final = 10_000
GONE_AFTER: Final = 3_600_000

#: Parts that are removed in one step.
REMOVED: Final = 20

#: What most tasks have is not written down.
_DEFAULTS: Final = {
    field.name: field.default if field.default_factory is MISSING else field.default_factory()
    for field in fields(NewTask)
}

_submitted_from = msgspec.json.Decoder(list[tuple[int, bool, tuple[str, ...]]]).decode


def submit(engine: Engine, task: NewTask, now: StoreTime) -> Submitted:
    """Do what `Store.submit` promises."""
    new = of_new_task(task, now)
    if rows := engine.rows(statements.SUBMIT, new):
        task_id = rows[0][0]
        if (values := of_limits(task, now)) is not None:
            engine.change(statements.SUBMIT_LIMITS, {"task_id": task_id, **values})
        if task.notify:
            engine.change(statements.SUBMIT_NOTIFY, {"task_id": task_id})
        if task.profile is not None:
            engine.change(statements.SUBMIT_PROFILE, of_profile(task_id, task))
        if task.payload is not None:
            values = {"task_id": task_id, "payload": task.payload}
            engine.change(statements.SUBMIT_PAYLOAD, values)
        return Submitted(task_id, created=True)
    ((task_id, command, payload),) = engine.rows(
        statements.TASK_WITH_KEY, {"queue": task.queue, "key": task.key}
    )
    same = {"command": new["command"] == command, "payload": task.payload == payload}
    differs = tuple(name for name in same if not same[name])
    return Submitted(task_id, created=False, differs=differs)


def stage(engine: Engine, uid: str, part: int, tasks: Sequence[NewTask], now: StoreTime) -> bool:
    """Do what `Store.stage` promises."""
    if part == 0:
        engine.change(statements.BEGIN_BULK, {"uid": uid, "now": now})
    elif not engine.change(statements.SEE_BULK, {"uid": uid, "now": now}):
        return False
    text = _text([_shortened(task) for task in tasks])
    values = {"uid": uid, "part": part, "many": len(tasks), "tasks": text}
    engine.change(statements.STAGE, values)
    return True


def accept(engine: Engine, uid: str, now: StoreTime) -> bool:
    """Do what `Store.accept` promises."""
    return engine.change(statements.ACCEPT, {"uid": uid, "now": now}) > 0


def admit(engine: Engine, uid: str, now: StoreTime) -> bool:
    """Do what `Store.admit` promises."""
    engine.change(statements.SEE_BULK, {"uid": uid, "now": now})
    return _admit(engine, uid, now)


def submitted(engine: Engine, uid: str, part: int) -> list[Submitted] | None:
    """Do what `Store.submitted` promises."""
    rows = engine.rows(statements.SUBMITTED, {"uid": uid, "part": part})
    return [Submitted(*one) for one in _submitted_from(rows[0][0])] if rows else None


def coming(engine: Engine) -> int:
    """Do what `Store.coming` promises."""
    return int(engine.rows(statements.COMING)[0][0])


def forget(engine: Engine, uid: str) -> bool:
    """Do what `Store.forget` promises."""
    if engine.rows(statements.NEXT_PART, {"uid": uid}):
        return False
    engine.change(statements.DROP_BULK, {"uid": uid})  # or its client might accept the rest of it
    removed = engine.change(statements.REMOVE_PARTS, {"uid": uid, "limit": REMOVED})
    if removed < REMOVED:
        engine.change(statements.REMOVE_BULK, {"uid": uid})
    return removed == REMOVED


def go_on(engine: Engine, now: StoreTime) -> bool:
    """Do what `Store.go_on` promises."""
    silent = {"silent": now - GO_ON_AFTER, "gone": now - GONE_AFTER}
    for uid, state, is_gone in engine.rows(statements.SILENT, silent):
        if _admit(engine, uid, now):
            return True
        if is_gone or state == "dropped":
            forget(engine, uid)
            return True
    return False


def _admit(engine: Engine, uid: str, now: StoreTime) -> bool:
    rows = engine.rows(statements.NEXT_PART + engine.dialect.lock_row, {"uid": uid})
    for part, tasks in rows:
        made = [
            submit(engine, task, now) for task in msgspec.json.decode(tasks, type=list[NewTask])
        ]
        text = _text([(one.task_id, one.created, one.differs) for one in made])
        engine.change(statements.ADMITTED, {"uid": uid, "part": part, "submitted": text})
    return bool(rows)


def _shortened(task: NewTask) -> dict[str, Any]:
    values = ((name, getattr(task, name)) for name in _DEFAULTS)
    return {name: value for name, value in values if value != _DEFAULTS[name]}


def _text(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise StoreRefused(f"no row can hold it: {error}") from error
