"""The node's pause: nothing is claimed for a while, because the host could not start a worker."""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.times import Instant

#: Seconds of the first pause, and of the longest; it doubles in between.
PAUSE = (1.0, 60.0)


NEVER = Instant(0.0)


@dataclass(slots=True)
class Pause:
    """A fault of the host, and until when it keeps the node from claiming.

    After the pause one task is tried; only a worker that starts ends it for good.
    """

    reason: str | None = None
    until: Instant = NEVER
    _seconds: float = 0.0

    @property
    def probing(self) -> bool:
        """Whether the last start failed for the host's fault: claim no more than one."""
        return self.reason is not None

    def begin(self, reason: str, *, at: Instant) -> float | None:
        """Pause, each time twice as long; return the seconds, None if paused already."""
        if self.reason is not None and at < self.until:
            return None
        first, longest = PAUSE
        self._seconds = min(longest, self._seconds * 2 or first)
        self.reason, self.until = reason, Instant(at + self._seconds)
        return self._seconds

    def end(self) -> None:
        """Forget the fault: a worker started."""
        self.reason, self.until, self._seconds = None, NEVER, 0.0
