"""Transactions on an engine, at the store's time: what all parts of the store share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from dispatcher.calendar import Calendar, Setting
from dispatcher.store.engine import Engine, transaction
from dispatcher.times import StoreTime


class StoreClock(Protocol):
    """The source of store time. Each transaction calls `begin` first; all methods run in one."""

    def begin(self, engine: Engine, *, write: bool) -> StoreTime:
        """Return the store time of the transaction."""

    def watch(self, engine: Engine) -> Setting:
        """Return the last setting of the host's clock."""

    def calendar(self, engine: Engine) -> Calendar:
        """Return the host's clock, now and earlier, relative to store time."""


class SqlTransactions:
    """`Transactions` on an engine whose schema `migrate` has prepared."""

    def __init__(self, engine: Engine, identity: str, clock: StoreClock) -> None:
        self.engine = engine
        self._identity = identity
        self._clock = clock

    @property
    def identity(self) -> str:
        return self._identity

    @contextmanager
    def transaction(self) -> Iterator[StoreTime]:
        with transaction(self.engine, write=True):
            yield self._clock.begin(self.engine, write=True)

    @contextmanager
    def snapshot(self) -> Iterator[StoreTime]:
        with transaction(self.engine, write=False):
            yield self._clock.begin(self.engine, write=False)

    def watch_clock(self) -> Setting:
        return self._clock.watch(self.engine)
