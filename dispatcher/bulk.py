"""Bulk work on the store: a little in each transaction, and others have their turn in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dispatcher import doubts
from dispatcher.store.api import Store
from dispatcher.times import Instant, StoreTime, instant, pause

T = TypeVar("T")

#: Seconds that a transaction aims to take, where nobody should wait for one longer than 0.05.
AIM = 0.02

#: Seconds between two transactions: others try for the store each millisecond.
GAP = 0.005

#: Rows in one transaction: at first, and within which bounds as many as the aim allows.
FIRST, FEWEST, MOST = 100, 10, 2_000


class Turns:
    """Transactions of bulk work: `rows` is how many rows the next one should touch."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], Instant] = instant,
        wait: Callable[[float], object] = pause,
    ) -> None:
        self.rows = FIRST
        self._store = store
        self._clock = clock
        self._wait = wait
        self._is_first = True

    def take(self, do: Callable[[StoreTime], T], *, remedy: str, harmless_twice: bool = True) -> T:
        """Do a part of the work as `doubts.change` does it, when others have had their turn."""
        if not self._is_first:
            self._wait(GAP)
        self._is_first = False
        began = Instant(0.0)

        def measured(now: StoreTime) -> T:
            nonlocal began
            began = self._clock()
            return do(now)

        done = doubts.change(self._store, measured, remedy=remedy, harmless_twice=harmless_twice)
        took = max(self._clock() - began, AIM / 100)
        wanted = round(self.rows * min(2.0, max(0.5, AIM / took)))
        self.rows = min(MOST, max(FEWEST, wanted))
        return done
