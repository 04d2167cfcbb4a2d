"""How long the store has not answered, and when it is asked again."""

from __future__ import annotations

import structlog

from dispatcher.times import Instant

log = structlog.get_logger()

#: Seconds until the store is asked again after it did not answer: first, and at most.
STORE_RETRY = (0.05, 1.0)


class Outage:
    """The store's silence, if there is one. It is told once, and so is its end."""

    def __init__(self) -> None:
        self.retry_at: Instant | None = None
        """When to ask again; None while the store answers."""
        self._since = Instant(0.0)
        self._delay = 0.0

    def silent_for(self, at: Instant) -> float | None:
        """Return the seconds since the store last answered, None while it does."""
        return None if self.retry_at is None else round(at - self._since, 3)

    def begins(self, error: str, *, at: Instant) -> None:
        """Take note that the store did not answer; ask again ever more seldom."""
        first, longest = STORE_RETRY
        if self.retry_at is None:
            self._since, self._delay = at, first
            log.warning("store.unavailable", error=error)
        else:
            self._delay = min(longest, self._delay * 2)
        self.retry_at = Instant(at + self._delay)

    def ends(self, *, at: Instant) -> None:
        """Take note that the store answered."""
        if self.retry_at is not None:
            log.info("store.recovered", silent_for_s=self.silent_for(at))
            self.retry_at = None
