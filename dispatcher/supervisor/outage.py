"""How long the store has not taken some work, and when that is tried again."""

from __future__ import annotations

from dispatcher.backoff import Backoff
from dispatcher.times import Instant

#: Seconds until the store is asked again after it did not answer: first, and at most.
STORE_RETRY = (0.05, 1.0)


class Outage:
    """The store's silence, if there is one."""

    def __init__(self, retry: tuple[float, float] = STORE_RETRY) -> None:
        self.retry_at: Instant | None = None
        """When to ask again; None while the store answers."""
        self._backoff = Backoff(*retry)
        self._since = Instant(0.0)

    def silent_for(self, at: Instant) -> float | None:
        """Return the seconds since the store last answered, None while it does."""
        return None if self.retry_at is None else round(at - self._since, 3)

    def begins(self, *, at: Instant) -> bool:
        """Take note that the store did not answer; say whether it had. It is asked ever less."""
        is_new = self.retry_at is None
        if is_new:
            self._since = at
            self._backoff.reset()
        self.retry_at = Instant(at + self._backoff.grow())
        return is_new

    def ends(self, *, at: Instant) -> float | None:
        """Take note that the store answered; return the seconds in which it did not, if any."""
        silent_for = self.silent_for(at)
        self.retry_at = None
        return silent_for
