"""Transactions on an engine, at the store's time: what all parts of the store share."""

from collections.abc import Iterator
from contextlib import contextmanager

from dispatcher.calendar import Setting
from dispatcher.store.clock import Clock
from dispatcher.store.engine import Engine, transaction
from dispatcher.times import StoreTime


class SqlTransactions:
    """`Transactions` on an engine whose schema `migrate` has prepared."""

    def __init__(self, engine: Engine, identity: str, clock: Clock) -> None:
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
