"""Work that may wait: each kind in transactions of its own, after the tick's.

What the store does not take of it, as on a full disk, keeps nobody's heartbeat from being written.
"""

from __future__ import annotations

from typing import Protocol

import structlog

from dispatcher.errors import CommitUnknown, StoreRefused, StoreUnavailable
from dispatcher.store.api import Transactions
from dispatcher.supervisor.outage import Outage
from dispatcher.supervisor.turn import Turn
from dispatcher.times import Instant

log = structlog.get_logger()

#: Seconds until such work is tried again after the store did not take it: first, and at most.
RETRY = (1.0, 60.0)


class Work(Protocol):
    """A kind of work that may wait. Done twice, it does no harm."""

    @property
    def due(self) -> Instant:
        """When a tick is to be made for it."""

    def is_due(self, at: Instant) -> bool:
        """Say whether there may be something to do."""

    def do(self, turn: Turn) -> None:
        """Do a bounded piece of it."""


class Chore:
    """One kind of such work, with a back-off of its own."""

    def __init__(self, store: Transactions, name: str, work: Work) -> None:
        self.name = name
        self.error: str | None = None
        """Why the store did not take it when it was tried last; None if it did."""
        self._store = store
        self._work = work
        self._outage = Outage(RETRY)

    @property
    def due(self) -> Instant:
        """When a tick is to be made for it."""
        return self._work.due if self._outage.retry_at is None else self._outage.retry_at

    def do(self, at: Instant) -> None:
        """Do a piece of it, if it is time. Raises `StoreUnusable`."""
        retry_at = self._outage.retry_at
        if at < retry_at if retry_at is not None else not self._work.is_due(at):
            return
        try:
            with self._store.transaction() as now:
                turn = Turn(now, at)
                self._work.do(turn)
        except (StoreUnavailable, CommitUnknown, StoreRefused) as error:
            self.error = str(error)
            if self._outage.begins(at=at):
                log.warning("work.postponed", work=self.name, error=self.error)
            return
        self.error = None
        if (waited := self._outage.ends(at=at)) is not None:
            log.info("work.resumed", work=self.name, waited_s=waited)
        for effect in turn.effects:
            effect()
