"""Concurrency keys: who gets one that is free."""

from typing import Final

import msgspec

from dispatcher import lanes
from dispatcher.complaints import UNREADABLE
from dispatcher.named_limits import Given, takes_from
from dispatcher.store import limits
from dispatcher.store.engine import Engine
from dispatcher.store.statements import keys as sql
from dispatcher.store.statements.given import rows_of

_labels_from: Final = msgspec.json.Decoder(dict[str, str]).decode

#: The row that is locked by who gives keys away, so that nobody else gives the same.
_LOCK: Final = ":keys"


def give_free(engine: Engine, *, limit: int) -> Given:
    """Give keys that are free to the first tasks that wait for them.

    Looks at the keys of at most `limit` tasks.
    """
    if not limits.lock(engine, _LOCK):
        return Given(0, busy=True)
    due = engine.rows(sql.DUE, {"limit": limit})
    wanted = {(queue, key) for _, queue, key in due}
    given = rows_of({"queue": queue, "concurrency_key": key} for queue, key in sorted(wanted))
    free = {
        task_id: (queue, key)
        for queue, key, task_id in (engine.rows(sql.NEXT, {"given": given}) if wanted else ())
        if task_id is not None
    }
    takers = rows_of({"id": task_id} for task_id in free)
    found = engine.rows(sql.TAKE, {"given": takers}) if free else ()
    rows = [{"id": task_id, "lane": _lane(requires, takes)} for task_id, requires, takes in found]
    if rows:
        engine.change(sql.GIVE, {"given": rows_of(rows)})
    # Of a task that others have locked it is decided later.
    left = {free[task_id] for task_id in free.keys() - {row["id"] for row in rows}}
    if decided := [{"id": task_id} for task_id, *key in due if tuple(key) not in left]:
        engine.change(sql.DECIDED, {"given": rows_of(decided)})
    return Given(len(rows), more=len(due) == limit, busy=bool(left))


def leave(engine: Engine, queue: str, key: str) -> None:
    """Let another task get a key that one of its queue may have left."""
    engine.change(sql.LEAVE, {"queue": queue, "key": key})


def _lane(requires: str | None, takes: str | None) -> str:
    """Return the lane of a task with these columns; one that are damaged is held by its claim."""
    try:
        return lanes.lane(_labels_from(requires or "{}"), takes_from(takes))
    except (*UNREADABLE, TypeError):
        return lanes.OPEN
