"""What is submitted: one task at once, or parts of many that are put aside until all are there.

What is put aside is no task yet: it has no id, and its keys keep nobody out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import islice, takewhile
from typing import Any, Final

import msgspec

from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.errors import StoreRefused
from dispatcher.model import NewTask, Submitted
from dispatcher.store import statements
from dispatcher.store.engine import Engine
from dispatcher.store.rows import DAMAGED
from dispatcher.store.values import of_limits, of_new_task, of_profile
from dispatcher.times import StoreTime

#: Milliseconds of silence after which others go on with what a client had accepted, and after
#: which what it put aside, or would still like to read, goes: it is dead, or stopped for long.
GO_ON_AFTER: Final = 10_000
GONE_AFTER: Final = 3_600_000

#: Where a part stands, its tasks, and what is wrong with it.
_Part = tuple[object, list[NewTask], str | None]

#: Parts that are removed in one step.
REMOVED: Final = 20

#: What most tasks have is not written down.
_DEFAULTS: Final = {
    field.name: field.default if field.default_factory is MISSING else field.default_factory()
    for field in fields(NewTask)
}

_submitted_from = msgspec.json.Decoder(list[tuple[int, bool, tuple[str, ...]]]).decode
_tasks_from = msgspec.json.Decoder(list[NewTask]).decode

#: Damaged parts that are named, and bulk submits that are looked at for them.
_MOST_NAMED: Final = 10
_MOST_LOOKED_AT: Final = 100

#: The least that the schema takes of a task's numbers, and the most that times are added to.
_LEAST: Final[Mapping[str, int]] = {
    **dict.fromkeys(("delay_ms", "kill_grace_ms"), 0),
    **dict.fromkeys(("max_attempts", "lease_ttl_ms", "kill_signal"), 1),
    **dict.fromkeys((field.name for field in fields(NewTask) if "timeout" in field.name), 1),
}
_MOST: Final = 2**62


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


def size_of(task: NewTask) -> int:
    """Return the bytes that a task takes in its part. Raises `StoreRefused` like `stage`."""
    return len(_encoded(_shortened(task)))


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


def accepted(engine: Engine, uid: str) -> bool | None:
    """Do what `Store.accepted` promises."""
    rows = engine.rows(statements.BULK_STATE, {"uid": uid})
    return rows[0][0] == "accepted" if rows else None


def submitted(engine: Engine, uid: str, part: int) -> list[Submitted] | None:
    """Do what `Store.submitted` promises."""
    for (text,) in engine.rows(statements.SUBMITTED, {"uid": uid, "part": part}):
        try:
            return [Submitted(*one) for one in _submitted_from(text)]
        except (*UNREADABLE, TypeError):
            break
    return None


def coming(engine: Engine) -> int:
    """Do what `Store.coming` promises."""
    return int(engine.rows(statements.COMING)[0][0])


def damaged(engine: Engine) -> list[str]:
    """Do what `Store.damaged_parts` promises."""
    found = (
        f"part {part} of bulk submit {uid} is {DAMAGED}{damage}"
        for uid, left in islice(_accepted(engine), _MOST_LOOKED_AT)
        for part, _, damage in takewhile(lambda one: one[2] is not None, left)
    )
    return list(islice(found, _MOST_NAMED))


def is_coming(engine: Engine) -> bool:
    """Say whether anything that was accepted becomes tasks without anybody's help."""
    return any(damage is None for _, left in _accepted(engine) for _, _, damage in left)


def forget(engine: Engine, uid: str) -> bool:
    """Do what `Store.forget` promises."""
    if engine.rows(statements.NEXT_PART, {"uid": uid, "after": -1}):
        return False
    engine.change(statements.DROP_BULK, {"uid": uid})  # or its client might accept the rest of it
    removed = engine.change(statements.REMOVE_PARTS, {"uid": uid, "limit": REMOVED})
    if removed < REMOVED:
        engine.change(statements.REMOVE_BULK, {"uid": uid})
    return removed == REMOVED


def go_on(engine: Engine, now: StoreTime) -> bool:
    """Do what `Store.go_on` promises."""
    silent = {"silent": now - GO_ON_AFTER, "gone": now - GONE_AFTER}
    rows = engine.rows(statements.SILENT, silent)
    for uid, is_left in rows:
        if not is_left:
            forget(engine, uid)
        elif not _admit(engine, uid, now):  # what is left is damaged: it waits, and keeps up nobody
            engine.change(statements.SEE_BULK, {"uid": uid, "now": now})
    return bool(rows)


def _admit(engine: Engine, uid: str, now: StoreTime) -> bool:
    for part, tasks, damage in _left(engine, uid, lock=engine.dialect.lock_row):
        if damage is None:
            made = [submit(engine, task, now) for task in tasks]
            text = _text([(one.task_id, one.created, one.differs) for one in made])
            engine.change(statements.ADMITTED, {"uid": uid, "part": part, "submitted": text})
            return True
    return False


def _accepted(engine: Engine) -> Iterator[tuple[str, Iterator[_Part]]]:
    """Yield each bulk submit that is accepted and not all tasks, with its parts that are none."""
    for (uid,) in engine.rows(statements.ACCEPTED):
        yield uid, _left(engine, uid)


def _left(engine: Engine, uid: str, *, lock: str = "") -> Iterator[_Part]:
    """Yield the parts of what was accepted that are no tasks yet, in their order."""
    after: object = -1
    while rows := engine.rows(statements.NEXT_PART + lock, {"uid": uid, "after": after}):
        after, text = rows[0]
        yield (after, *_part_from(text))


def _part_from(text: Any) -> tuple[list[NewTask], str | None]:
    """Return a part's tasks, and what keeps it from becoming them: somebody changed it by hand."""
    try:
        tasks = _tasks_from(text)
    except TypeError:
        return [], "expected a text"
    except UNREADABLE as error:
        return [], in_words(error)
    wrong = (f"item {n}: {told}" for n, task in enumerate(tasks, 1) if (told := _wrong(task)))
    return tasks, next(wrong, None)


def _wrong(task: NewTask) -> str | None:
    """Return what of a task breaks a rule of the schema."""
    if not task.queue:
        return "queue: is empty"
    for name, least in _LEAST.items():
        if (value := getattr(task, name)) is not None and not least <= value <= _MOST:
            return f"{name}: must be from {least} to {_MOST}"
    return None


def _shortened(task: NewTask) -> dict[str, Any]:
    values = ((name, getattr(task, name)) for name in _DEFAULTS)
    return {name: value for name, value in values if value != _DEFAULTS[name]}


def _text(value: object) -> str:
    return _encoded(value).decode()


def _encoded(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise StoreRefused(f"no row can hold it: {error}") from error
