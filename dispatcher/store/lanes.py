"""The ready tasks of queues that have lanes (`dispatcher.lanes`): which are next, and how many."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from msgspec.structs import replace

from dispatcher import lanes
from dispatcher.lanes import BEHIND, NOTHING, OPEN
from dispatcher.limit_room import Room
from dispatcher.named_limits import NO_LIMITS
from dispatcher.nodes import Requiring
from dispatcher.store.engine import Engine, Row, Values
from dispatcher.store.rows import Ready, names, time_from
from dispatcher.store.statements import claims as claims_sql
from dispatcher.store.statements import lanes as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.times import StoreTime

#: Lanes besides the open one of which one claim reads. Bounds its time.
MOST: Final = 63

#: Parts of so many lanes that a reader looks at. Bounds its time where each task has its own.
_PARTS: Final = 16


#: The place of a row's lane.
_LANE: Final = names(Ready).index("lane")


class Next(NamedTuple):
    """Ready tasks of a queue that were locked for a claim, in their order."""

    rows: Sequence[Row]
    last: str | None
    """The last lane that was looked at; None: there is none behind it."""
    is_less: bool
    """Whether there were more, which others have locked or claimed meanwhile."""


def lock_next(
    engine: Engine,
    values: Values,
    labels: Mapping[str, str],
    after: str,
    lock_room: Callable[[Collection[str]], Room],
) -> Next:
    """Lock the next ready tasks that a node with these labels may claim.

    `values` are those of `claims.READY`. Looks at `MOST` lanes behind `after`, and the open one.
    `lock_room` locks the limits that their tasks take.
    """
    found = _lanes(engine, values["queue"], after, MOST + 1)
    last = found[MOST - 1] if len(found) > MOST else None
    limit = values["limit"]
    assert isinstance(limit, int)
    most = lanes.allowed([OPEN, *found[:MOST]], labels, limit)
    if limited := {lane: takes for lane in most if (takes := lanes.takes(lane))}:
        room = lock_room({name for takes in limited.values() for name in takes})
        most |= {lane: room.most(takes, limit) for lane, takes in limited.items()}
        # As many as may be left out, for what they share with others.
        many = limit + sum(most[lane] for lane in limited)
        rows = _first(engine, values["queue"], most, many)
        admitted = (row for row in rows if room.admits(limited.get(row[1], NO_LIMITS)))
        first = list(islice(admitted, limit))
    else:
        first = _first(engine, values["queue"], most, limit)
    if not first:
        return Next([], last, is_less=False)
    rows = engine.rows(
        claims_sql.READY_AMONG, {**values, "given": rows_of({"id": one} for one, _, _ in first)}
    )
    of = {task_id: (place, lane) for place, (task_id, lane, _) in enumerate(first)}
    rows = sorted(
        (row for row in rows if row[_LANE] == of[row[0]][1]), key=lambda row: of[row[0]][0]
    )
    return Next(rows, last, is_less=len(rows) < len(first))


def foremost(engine: Engine, queue: object, limit: int) -> list[int]:
    """Return the ids of the first ready tasks of a queue, whatever they need."""
    found: list[Row] = []
    for part in _parts(engine, queue):
        found += _first(engine, queue, dict.fromkeys(part, limit), limit)
    found.sort(key=lambda row: (row[2], row[0]))
    return [task_id for task_id, _, _ in found[:limit]]


def before(engine: Engine, task_id: int, queue: str, limit: int) -> int:
    """Return how many ready tasks of a queue precede one, counted to a limit."""
    left = limit
    for part in _parts(engine, queue):
        given = rows_of({"lane": one} for one in part)
        values = {"given": given, "queue": queue, "id": task_id, "limit": left}
        ((found,),) = engine.rows(sql.BEFORE, values)
        left -= found
        if not left:
            break
    return limit - left


def requiring(engine: Engine, limit: int) -> list[Requiring]:
    """Return the ready tasks that need more than a slot, by queue and lane."""
    found: dict[tuple[object, ...], Requiring] = {}
    for queue, lane, many, since in engine.rows(sql.SINCE, {"limit": limit}):
        needs = lanes.needs(lane) or NOTHING
        group = (
            queue,
            lane == BEHIND,
            *sorted(needs.requires.items()),
            *sorted(needs.takes.items()),
        )
        one = Requiring(
            queue=queue,
            requires=needs.requires,
            takes=needs.takes,
            behind=lane == BEHIND,
            tasks=many,
            since=time_from(since) or StoreTime(0),
        )
        if (same := found.get(group)) is not None:
            one = replace(one, tasks=one.tasks + same.tasks, since=min(one.since, same.since))
        found[group] = one
    return [*found.values()]


def is_any_allowed(engine: Engine, labels: Mapping[str, str] | None, but: Iterable[str]) -> bool:
    """Return whether a task is ready, or scheduled, in a lane of which a node may claim.

    `labels`: None for any node. `but` these queues.
    """
    left_out = frozenset(but)
    for statement in (sql.ALL, sql.SCHEDULED):
        for queue, lane in engine.rows(statement):
            if queue in left_out:
                continue
            if labels is None or lanes.allowed([lane], labels, 1):
                return True
    return False


def is_any_ready(engine: Engine, labels: Mapping[str, str]) -> bool:
    """Return whether a task is ready that a node with these labels may claim."""
    return any(lanes.allowed([lane], labels, 1) for _, lane in engine.rows(sql.UNPAUSED))


def _lanes(engine: Engine, queue: object, after: str, limit: int) -> list[str]:
    values = {"queue": queue, "after": after, "limit": limit}
    return [lane for (lane,) in engine.rows(sql.OF_QUEUE, values)]


def _parts(engine: Engine, queue: object) -> Iterator[list[str]]:
    """Yield the lanes of a queue, some at a time, the open one first."""

    def parts() -> Iterator[list[str]]:
        found = [OPEN, *_lanes(engine, queue, OPEN, MOST)]
        yield found
        while len(found) >= MOST:
            found = _lanes(engine, queue, found[-1], MOST)
            yield found

    return islice(filter(None, parts()), _PARTS)


def _first(engine: Engine, queue: object, most: Mapping[str, int], limit: int) -> list[Row]:
    """Return id, lane and rank of the first ready tasks of some lanes, in their order."""
    if not most:
        return []
    # For a power of two of lanes, so that few statements are planned.
    slots = 1 << (len(most) - 1).bit_length()
    values: dict[str, object] = {"queue": queue, "limit": limit}
    for n, (lane, many) in enumerate([*most.items(), *[(None, 0)] * (slots - len(most))]):
        values |= {f"lane{n}": lane, f"most{n}": many}
    return engine.rows(sql.first(slots), values)
