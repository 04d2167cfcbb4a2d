"""Deferrable work: each kind in transactions of its own, after the tick's.

Work that the store refuses, as on a full disk, therefore blocks no heartbeat.
"""

from typing import Protocol

import structlog

from dispatcher.errors import CommitUnknown, StoreRefused, StoreUnavailable, StoreWithheld
from dispatcher.store.api import Transactions
from dispatcher.supervisor.outage import Outage
from dispatcher.supervisor.turn import Turn
from dispatcher.times import Instant

log = structlog.get_logger()

#: Seconds until refused work is tried again: first, and at most; doubling.
RETRY = (1.0, 60.0)


class Work(Protocol):
    """A kind of deferrable work. Doing it twice is harmless."""

    @property
    def due(self) -> Instant:
        """When a tick must be made for it."""

    def is_due(self, at: Instant) -> bool:
        """Return whether there may be something to do."""

    def do(self, turn: Turn) -> None:
        """Do a bounded part."""


class Chore:
    """One kind of work, with its own back-off."""

    def __init__(self, store: Transactions, name: str, work: Work) -> None:
        self.name = name
        self.error: str | None = None
        """The store's error at the last try; None if it succeeded."""
        self._store = store
        self._work = work
        self._outage = Outage(RETRY)

    @property
    def due(self) -> Instant:
        return self._work.due if self._outage.retry_at is None else self._outage.retry_at

    def do(self, at: Instant) -> None:
        """Do a part, if due. Raises `StoreUnusable`."""
        retry_at = self._outage.retry_at
        if at < retry_at if retry_at is not None else not self._work.is_due(at):
            return
        try:
            with self._store.transaction() as now:
                turn = Turn(now, at)
                self._work.do(turn)
        except (StoreUnavailable, StoreWithheld, CommitUnknown, StoreRefused) as error:
            self.error = str(error)
            if self._outage.record_failure(error, at=at):
                log.warning("work.postponed", work=self.name, error=self.error)
            return
        self.error = None
        if (waited := self._outage.record_success(at=at)) is not None:
            log.info("work.resumed", work=self.name, waited_s=waited)
        for effect in turn.effects:
            effect()
