"""The node's pause: nothing is claimed for a while, because the host could not start a worker.

The host's capacity is found as TCP finds that of a network (RFC 5681): after the pause one more run
may start than those that live, and with every good start one more at a time. Beyond the number that
lived when a start failed, one more is tried, and if that fails, again after twice as long.
"""

import math
from dataclasses import dataclass, field

from dispatcher.backoff import Backoff
from dispatcher.times import LONG_AGO, Instant

#: Seconds of the first pause, and of the longest; it doubles in between.
PAUSE = (1.0, 60.0)


@dataclass(slots=True)
class Pause:
    """A fault of the host, the pause that follows, and the capacity it showed."""

    reason: str | None = None
    """None once a worker has started."""
    until: Instant = LONG_AGO
    capacity: int | None = None
    """How many runs lived when a start failed; None: no limit below the slots is known."""
    fault: str = ""
    """The error of the last start that failed."""
    next_trial_at: Instant = LONG_AGO
    """When one run above the capacity is tried again."""
    _room: int = 1
    _length: Backoff = field(default_factory=lambda: Backoff(*PAUSE))
    _trial: Backoff = field(default_factory=lambda: Backoff(*PAUSE))

    def begin(self, reason: str, *, living: int, at: Instant) -> float | None:
        """Pause, each time twice as long; return the seconds, or None without a new pause.

        `living` is the number of runs that are known to have started and live.
        """
        if self.reason is not None and at < self.until:
            return None
        self.fault = reason
        if self._is_at_capacity(living):
            self.capacity = max(1, living)
            self.next_trial_at = Instant(at + self._trial.grow())
            return None
        seconds = self._length.grow()
        self.reason, self.until = reason, Instant(at + seconds)
        self.capacity = max(1, living)
        self._room = 1
        return seconds

    def is_first(self, *, living: int) -> bool:
        """Return whether `begin` would begin a pause, the first since a worker could start."""
        return self.reason is None and not self._is_at_capacity(living)

    def _is_at_capacity(self, living: int) -> bool:
        return self.capacity is not None and self.reason is None and living + 1 >= self.capacity

    def started(self, *, claimed: int, slots: int) -> None:
        """End the pause, and allow one more run; `claimed` are all runs that live or start."""
        self.reason, self.until = None, LONG_AGO
        self._length.reset()
        if self.capacity is None:
            return
        if claimed > self.capacity:
            self.capacity, self.next_trial_at = claimed, LONG_AGO
        self._room += 1
        if self.capacity >= slots:
            self.capacity = None
            self._trial.reset()

    def room(self, *, living: int, at: Instant) -> float:
        """Return how many runs may live or start at once, given the `living` ones."""
        if self.reason is not None:
            return living + 1 if at >= self.until else 0
        if self.capacity is None:
            return math.inf
        return min(living + self._room, self.capacity + (at >= self.next_trial_at))
