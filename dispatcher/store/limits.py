"""Named limits, on an engine: who holds them, closing and opening them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from dispatcher import limit_room
from dispatcher.events import EventKind
from dispatcher.limit_room import Room
from dispatcher.limit_views import LimitView, viewed
from dispatcher.model import FINISHED, TaskState
from dispatcher.named_limits import Closing, Rule, queue_of, takes_from
from dispatcher.store.engine import Engine, Row, Values
from dispatcher.store.rows import time_from
from dispatcher.store.statements import limits as sql
from dispatcher.store.statements import nodes as nodes_sql
from dispatcher.store.statements.given import rows_of
from dispatcher.times import StoreTime
from dispatcher.words import Declaration

if TYPE_CHECKING:
    from dispatcher.store.breakers import Changed

#: Milliseconds for which starts are kept beyond the window of their rate: transactions of several
#: nodes commit in another order than they begin.
_SLACK: Final = 60_000


def closings(engine: Engine) -> list[Closing]:
    """Return the limits that have a row, by name."""
    return [_closing(row) for row in engine.rows(sql.CLOSINGS)]


def _closing(row: Row) -> Closing:
    name, at, until, reason, who, probe, counted_from = row
    times = {"closed_at": time_from(at), "closed_until": time_from(until)}
    times["counted_from"] = time_from(counted_from)
    return Closing(name=name, closed_reason=reason, closed_by=who, probe=probe, **times)


def add(engine: Engine, names: Iterable[str]) -> None:
    """Make rows for limits, which claims lock."""
    engine.change(sql.ADD, _named(names))


def lock(engine: Engine, name: str) -> bool:
    """Lock a row for what one at a time may do; False: another transaction has it."""
    given = _named([name])
    if engine.rows(sql.LOCK, given):
        return True
    engine.change(sql.ADD, given)
    return bool(engine.rows(sql.LOCK, given))


def lock_free(engine: Engine, names: Collection[str]) -> set[str]:
    """Lock limits that have rows; return those that others have locked."""
    left = set(names) - {row[0] for row in engine.rows(sql.LOCK, _named(names))}
    return {row[0] for row in engine.rows(sql.AMONG, _named(left))} if left else left


class Locked(NamedTuple):
    """The limits of a claim."""

    room: Room
    busy: bool
    """Whether another claim has locked some."""
    probes: tuple[str, ...] = ()
    """Limits of which what starts is a probe."""


def lock_room(
    engine: Engine,
    names: Collection[str],
    rules: Mapping[str, Rule],
    *,
    who: str,
    changed: Changed,
    waits: bool,
    now: StoreTime,
) -> Locked:
    """Lock limits for a claim.

    Those without a rule let everything through, unless they are closed. One whose time has come is
    opened. `changed` is told what is closed or opened. `waits`: for other claims.
    """
    found = _locked(engine, names, rules, waits=waits)
    for over in (one for one in found.values() if one.is_over(now)):
        if engine.change(sql.OPEN_OVER, {"name": over.name, "now": now}):
            changed(EventKind.LIMIT_OPENED, over.name, "its time is over")
    busy = {name for name in names if name in rules and name not in found}
    if unruled := [one for one in names if one not in rules and one not in found]:
        found |= {row[0]: _closing(row) for row in engine.rows(sql.AMONG, _named(unruled))}
    views = list(_used(engine, found, rules, now))
    judged = {}
    for view in views:
        if view.rule is not None and view.rule.breaker is not None:
            from dispatcher.store import breakers  # noqa: PLC0415 - few queues have any

            judged[view.name] = breakers.judge(engine, view, who=who, changed=changed, now=now)
    rooms = {name: one.room for name, one in judged.items()}
    room = limit_room.room(views, busy=busy, judged=rooms, now=now)
    opens = [room.opens_at, *(one.opens_at for one in judged.values())]
    room.opens_at = min((at for at in opens if at is not None), default=None)
    return Locked(room, bool(busy), tuple(name for name, one in judged.items() if one.is_probe))


def _locked(
    engine: Engine, names: Collection[str], rules: Mapping[str, Rule], *, waits: bool
) -> dict[str, Closing]:
    """Lock the rows of limits; return those that no other claim has locked.

    One with a rule may have no row yet: no daemon has claimed with it, or a failover forgot that.
    """
    lock = sql.LOCK_AND_WAIT if waits else sql.LOCK
    rows = engine.rows(lock, _named(names))
    missing = rules.keys() & (set(names) - {row[0] for row in rows})
    if missing and (engine.change(sql.ADD, _named(missing)) or waits):
        rows += engine.rows(lock, _named(missing))
    return {row[0]: _closing(row) for row in rows}


def _used(
    engine: Engine, found: Mapping[str, Closing], rules: Mapping[str, Rule], now: StoreTime
) -> Iterator[LimitView]:
    """Yield limits with how much of them is used."""
    own = {name: rules[name] for name in found if name in rules}
    counts = any(one.concurrency is not None for one in own.values())
    known = viewed(own, found.values(), holders(engine) if counts else {})
    known = {name: known[name] for name in found if name in known}
    for name, view in with_starts(engine, known, now).items():
        queue = queue_of(name)
        yield view if queue is None else replace(view, running=running_in(engine, queue))


def record_starts(
    engine: Engine,
    started: Iterable[Mapping[str, int]],
    rules: Mapping[str, Rule],
    now: StoreTime,
) -> None:
    """Count the starts of tasks that take limits, for those with a rate."""
    many: Counter[str] = Counter()
    for takes in started:
        many.update(takes)
    windows = {
        name: rule.rate.window_ms
        for name in sorted(many)
        if (rule := rules.get(name)) is not None and rule.rate is not None
    }
    for name, window_ms in windows.items():
        before = now - window_ms - _SLACK
        engine.later(sql.FORGET_STARTS, {"name": name, "before": before})
    if windows:
        rows = rows_of({"name": name, "many": many[name]} for name in windows)
        engine.later(sql.START, {"given": rows, "now": now})


def running_in(engine: Engine, queue: str) -> int:
    """Return how many tasks of a queue run, local claims left out."""
    ((running,),) = engine.rows(nodes_sql.RUNNING_OF_QUEUE, {"queue": queue})
    return int(running)


def _named(names: Iterable[str]) -> Values:
    return {"given": rows_of({"name": name} for name in sorted(names))}


def with_starts(
    engine: Engine, views: Mapping[str, LimitView], now: StoreTime
) -> dict[str, LimitView]:
    """Return limits with what was started within the windows of their rates."""
    windows = {
        name: one.rule.rate.window_ms
        for name, one in views.items()
        if one.rule is not None and one.rule.rate is not None
    }
    if not windows:
        return dict(views)
    rows = rows_of({"name": name, "since_at": now - ms} for name, ms in windows.items())
    found = {
        name: replace(
            views[name], started=int(many), next_start_at=StoreTime(first + windows[name])
        )
        for name, many, first in engine.rows(sql.STARTED, {"given": rows})
    }
    return {**views, **found}


def views(engine: Engine, rules: Mapping[str, Rule], now: StoreTime) -> dict[str, LimitView]:
    """Return the limits that have a rule, have a row, or are held, by name."""
    return with_starts(engine, viewed(rules, closings(engine), holders(engine)), now)


def holders(engine: Engine) -> dict[int, Mapping[str, int]]:
    """Return what each running task holds."""
    return {task_id: takes_from(text) for task_id, text in engine.rows(sql.HOLDING)}


def taken(engine: Engine) -> set[str]:
    """Return the limits that unfinished tasks take."""
    found: set[str] = set()
    for state in sorted({*TaskState} - FINISHED):
        for (text,) in engine.rows(sql.TAKEN, {"state": state.value}):
            found |= takes_from(text).keys()
    return found


def close(
    engine: Engine, name: str, *, until: StoreTime | None, reason: str, who: str, now: StoreTime
) -> None:
    """Close a limit until a time, or until somebody opens it."""
    values = {"name": name, "until": until, "reason": reason, "who": who, "now": now}
    values["probe"] = None
    engine.change(sql.CLOSE, values)


def close_longer(
    engine: Engine, name: str, *, until: StoreTime, reason: str, who: str, now: StoreTime
) -> bool:
    """Close a limit; False: it is closed for as long or longer, and stays as it is."""
    values = {"name": name, "until": until, "reason": reason, "who": who, "now": now}
    values["probe"] = None
    return engine.change(sql.CLOSE_LONGER, values) > 0


def is_taken(engine: Engine, declaration: Declaration) -> bool:
    """Return whether the task of a lock takes the limit that a declaration closes.

    True also for a lock that is not of an open run: others refuse it.
    """
    rows = engine.rows(sql.TAKEN_BY, {"task_id": declaration.task_id, "lock": declaration.lock})
    return all(declaration.close in takes_from(text) for (text,) in rows)


def open_again(engine: Engine, name: str, now: StoreTime) -> bool:
    """Open a limit; False: it was open."""
    return engine.change(sql.OPEN, {"name": name, "now": now}) > 0
