"""An outage of the store: since when, and when to try again."""

import random

from dispatcher.backoff import Backoff
from dispatcher.errors import StoreLocked, StoreWithheld
from dispatcher.times import Instant

#: Seconds until the store is tried again: first, and at most; doubling.
STORE_RETRY = (0.05, 1.0)

#: Seconds after an outage in which nodes that it silenced come back: they try again each second,
#: and connection and answer take 2 s each.
RETURN = 5.0


class Outage:
    def __init__(
        self, retry: tuple[float, float] = STORE_RETRY, *, rng: random.Random | None = None
    ) -> None:
        """With `rng`, each delay is drawn from its upper half: daemons return one by one."""
        self._rng = rng
        self.retry_at: Instant | None = None
        """When to try again; None while the store answers."""
        self._backoff = Backoff(*retry)
        self._since = Instant(0.0)
        self.is_locked = False
        """Whether the last failure was another session's lock."""
        self._is_withheld = False
        """Whether a right, or the store itself, was missing: only a person ends that."""

    def silent_for(self, at: Instant) -> float | None:
        """Return the seconds since the store last answered, None while it does."""
        return None if self.retry_at is None else round(at - self._since, 3)

    @property
    def since(self) -> Instant | None:
        """When the outage began, None while the store answers."""
        return None if self.retry_at is None else self._since

    def record_failure(self, error: Exception, *, at: Instant) -> bool:
        """Plan the next try; return whether an outage has begun, or a person has to end it."""
        was_withheld, self._is_withheld = self._is_withheld, isinstance(error, StoreWithheld)
        self.is_locked = isinstance(error, StoreLocked)
        is_new = self.retry_at is None
        if is_new:
            self._since = at
            self._backoff.reset()
        delay = self._backoff.grow()
        if self._rng is not None:
            delay = self._rng.uniform(delay / 2, delay)
        self.retry_at = Instant(at + delay)
        return is_new or (self._is_withheld and not was_withheld)

    def record_success(self, *, at: Instant) -> float | None:
        """End the outage, if there is one; return its length in seconds."""
        silent_for = self.silent_for(at)
        self.retry_at, self._is_withheld, self.is_locked = None, False, False
        return silent_for
