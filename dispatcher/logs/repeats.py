"""Repeated lines are left out of a log and counted: after a first burst one line a minute.

The catalogue has the events, and the fields by which two lines are equal (`same_by`).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dispatcher.times import Instant

#: Equal lines that are written before any is left out.
BURST = 10

#: Seconds between two equal lines from then on, and of silence that end a repetition.
INTERVAL = 60.0

#: Repetitions tracked at most; bounds memory.
MOST = 200


@dataclass(slots=True)
class _Repetition:
    of: str
    same: Mapping[str, object]
    written_at: Instant
    seen_at: Instant
    lines: int = 0
    left_out: int = 0
    """Lines left out since the last one written."""
    held_back: bool = False
    """Whether a line was ever left out."""


class Repeats:
    """Counts recent lines. Time comes in by argument."""

    def __init__(self) -> None:
        self.due = Instant(math.inf)
        """When a repetition may have `ended`."""
        self._known: dict[tuple[object, ...], _Repetition] = {}

    def admit(
        self, event: str, same_by: tuple[str, ...], facts: Mapping[str, object], at: Instant
    ) -> int | None:
        """Return how many equal lines were left out since the last; None: leave this out too."""
        key = (event, *(repr(facts.get(name)) for name in same_by))
        known = self._known.get(key)
        if known is None or (at >= known.seen_at + INTERVAL and not known.held_back):
            if len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            same = {name: facts.get(name) for name in same_by}
            known = self._known[key] = _Repetition(event, same, written_at=at, seen_at=at)
        known.seen_at = at
        if known.lines >= BURST and at < known.written_at + INTERVAL:
            known.left_out += 1
            known.held_back = True
            self.due = min(self.due, Instant(at + INTERVAL))
            return None
        left_out, known.left_out = known.left_out, 0
        known.lines += 1
        known.written_at = at
        return left_out

    def ended(self, at: Instant) -> Iterator[dict[str, object]]:
        """Yield the fields of a line for each repetition that has ended, and forget it."""
        for key, known in list(self._known.items()):
            if known.held_back and at >= known.seen_at + INTERVAL:
                del self._known[key]
                yield {"of": known.of, "same": known.same, "left_out": known.left_out}
        ends = (known.seen_at + INTERVAL for known in self._known.values() if known.held_back)
        self.due = Instant(min(ends, default=math.inf))

    def unreported(self) -> Iterator[dict[str, object]]:
        """Yield them for every repetition with lines left out, and forget all: the log ends."""
        for known in self._known.values():
            if known.left_out:
                yield {"of": known.of, "same": known.same, "left_out": known.left_out}
        self.forget()

    def forget(self) -> None:
        self._known.clear()
        self.due = Instant(math.inf)

    def __len__(self) -> int:
        return len(self._known)
