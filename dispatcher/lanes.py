"""Where a ready task stands in its queue: in which lane, and in which order. Pure.

A lane is what a claim needs besides a slot. Of the ready tasks of a queue's lane all may be
claimed, or none, so that a claim reads only tasks that it may take.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct, field

from dispatcher.complaints import UNREADABLE
from dispatcher.named_limits import NO_LIMITS, Units
from dispatcher.times import StoreTime

#: The lane of a task that needs nothing but a slot.
OPEN: Final = ""

#: The lane of a ready task whose concurrency key another one has: nobody may claim of it. It stays
#: in this lane, whatever its state, until it gets the key.
BEHIND: Final = "~"

#: How many seconds of waiting one point of priority is worth in a queue without ageing: 68 years,
#: so that priority decides alone. The lowest and the highest rank then still fit 64 bits.
STRICT: Final = 2**31

#: The bounds of a rank; a row changed by hand may lead beyond them.
_LEAST, _MOST = -(2**63), 2**63 - 1


class Needs(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a claim of a lane's tasks needs besides a slot."""

    requires: Mapping[str, str] = field(default_factory=dict)
    """Labels that the node must have."""
    takes: Mapping[str, Units] = field(default_factory=dict)
    """Named limits, and how much of each a run takes."""

    def are_met(self, labels: Mapping[str, str]) -> bool:
        """Return whether a node with these labels may claim such a task."""
        return self.requires.items() <= labels.items()


NOTHING: Final = Needs()

_decode = msgspec.json.Decoder(Needs).decode


def lane(requires: Mapping[str, str], takes: Mapping[str, int] = NO_LIMITS) -> str:
    """Return the lane of a task. Raises `UnicodeEncodeError` on broken Unicode."""
    if not (requires or takes):
        return OPEN
    needs = Needs(requires=dict(sorted(requires.items())), takes=dict(sorted(takes.items())))
    return msgspec.json.encode(needs).decode()


@lru_cache(maxsize=1024)
def needs(lane: str) -> Needs | None:
    """Return what a lane needs; None if it was damaged by hand."""
    try:
        return _decode(lane or "{}")
    except UNREADABLE:
        return None


def is_of(lane: str, requires: Mapping[str, str], takes: Mapping[str, int]) -> bool:
    """Return whether a lane, perhaps damaged, is that of tasks with these needs."""
    wanted = needs(lane)
    return wanted is not None and (wanted.requires, wanted.takes) == (requires, takes)


def allowed(lanes: Iterable[str], labels: Mapping[str, str], most: int) -> dict[str, int]:
    """Return the lanes of which a node may claim, each with how many tasks: at most `most`.

    A damaged lane is anybody's, so that the first who would claim of it holds its tasks.
    """
    return {
        one: most
        for one in lanes
        if one != BEHIND and ((wanted := needs(one)) is None or wanted.are_met(labels))
    }


def takes(lane: str) -> Mapping[str, int]:
    """Return the named limits that the tasks of a lane take."""
    wanted = needs(lane)
    return NO_LIMITS if wanted is None else wanted.takes


def rank(created_at: StoreTime, priority: int, ageing_ms: int | None) -> int:
    """Return a task's place in its lane: the smallest is first, and of equal ones the lowest id.

    A point of priority is worth `ageing_ms` of waiting since the submit. As all tasks age alike,
    their order never changes: that of now is that of every other moment. In seconds.
    """
    point = STRICT if ageing_ms is None else max(1, ageing_ms // 1000)
    return min(max(created_at // 1000 - priority * point, _LEAST), _MOST)
