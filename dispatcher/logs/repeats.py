"""What repeats is left out of a log and counted: a first burst, then one line a minute.

Which events, and by which of their fields two lines tell of the same, the catalogue says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dispatcher.times import Instant

#: Lines of the same that are written before any is left out.
BURST = 10

#: Seconds between two lines of the same from then on; and of silence after which it has ceased.
INTERVAL = 60.0

#: Repetitions remembered: of what differs in each line none is one, and memory stays bounded.
MOST = 200


@dataclass(slots=True)
class _Repetition:
    of: str
    same: Mapping[str, object]
    written_at: Instant
    seen_at: Instant
    lines: int = 0
    left_out: int = 0
    """Since its last line."""
    held_back: bool = False
    """Whether any was ever left out."""


class Repeats:
    """Remembers what was said lately. Time comes in by argument."""

    def __init__(self) -> None:
        self.due = Instant(math.inf)
        """When to ask what has `ceased`."""
        self._known: dict[tuple[object, ...], _Repetition] = {}

    def admit(
        self, event: str, same_by: tuple[str, ...], facts: Mapping[str, object], at: Instant
    ) -> int | None:
        """Return how many were left out since its last line; None: leave this one out too."""
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

    def ceased(self, at: Instant) -> Iterator[dict[str, object]]:
        """Yield the fields of a line for each repetition that has ended, and forget it."""
        for key, known in list(self._known.items()):
            if known.held_back and at >= known.seen_at + INTERVAL:
                del self._known[key]
                yield {"of": known.of, "same": known.same, "left_out": known.left_out}
        ends = (known.seen_at + INTERVAL for known in self._known.values() if known.held_back)
        self.due = Instant(min(ends, default=math.inf))

    def last_words(self) -> Iterator[dict[str, object]]:
        """Yield the same for every repetition with lines left out: nothing will follow."""
        for known in self._known.values():
            if known.left_out:
                yield {"of": known.of, "same": known.same, "left_out": known.left_out}
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._known.clear()
        self.due = Instant(math.inf)

    def __len__(self) -> int:
        return len(self._known)
