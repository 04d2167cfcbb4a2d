"""The node's pause: nothing is claimed for a while, because the host could not start a worker.

What the host bears is found as TCP finds the room of a network (RFC 5681): after the pause one run
may start beside those that live, and with every good start one more at a time. Beyond the number
that lived when a start failed one more is tried, and when that fails, again after twice as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dispatcher.backoff import Backoff
from dispatcher.times import LONG_AGO, Instant

#: Seconds of the first pause, and of the longest; it doubles in between.
PAUSE = (1.0, 60.0)


@dataclass(slots=True)
class Pause:
    """A fault of the host, until when it keeps the node from claiming, and how many it bears."""

    reason: str | None = None
    """None once a worker has started."""
    until: Instant = LONG_AGO
    borne: int | None = None
    """How many runs lived when a start failed; None: the host bears as many as there are slots."""
    fault: str = ""
    """Of the last start that failed."""
    next_trial_at: Instant = LONG_AGO
    """When one more than that is tried again."""
    _room: int = 1
    _length: Backoff = field(default_factory=lambda: Backoff(*PAUSE))
    _trial: Backoff = field(default_factory=lambda: Backoff(*PAUSE))

    def begin(self, reason: str, *, living: int, at: Instant) -> float | None:
        """Pause, each time twice as long; return the seconds, None if nothing pauses.

        `living` is how many runs are known to have started and live.
        """
        if self.reason is not None and at < self.until:
            return None
        self.fault = reason
        if self.borne is not None and self.reason is None and living + 1 >= self.borne:
            self.borne = max(1, living)
            self.next_trial_at = Instant(at + self._trial.grow())
            return None
        seconds = self._length.grow()
        self.reason, self.until = reason, Instant(at + seconds)
        self.borne = max(1, living)
        self._room = 1
        return seconds

    def started(self, *, claimed: int, slots: int) -> None:
        """End the pause, and let one run more live at once; `claimed` is how many are or start."""
        self.reason, self.until = None, LONG_AGO
        self._length.reset()
        if self.borne is None:
            return
        if claimed > self.borne:
            self.borne, self.next_trial_at = claimed, LONG_AGO
        self._room += 1
        if self.borne >= slots:
            self.borne = None
            self._trial.reset()

    def room(self, *, living: int, at: Instant) -> float:
        """Return how many runs may live or start at once; `living` are those that have started."""
        if self.reason is not None:
            return living + 1 if at >= self.until else 0
        if self.borne is None:
            return math.inf
        return min(living + self._room, self.borne + (at >= self.next_trial_at))
