"""One transaction: operations, the commit, then what may happen only after it."""

import math
from collections.abc import Callable, Sequence
from typing import Final

from dispatcher.errors import (
    CommitUnknown,
    DispatcherError,
    StoreRefused,
    StoreUnavailable,
    StoreWithheld,
)
from dispatcher.history import History
from dispatcher.store.api import Transactions, Version
from dispatcher.supervisor.turn import Memory, Turn
from dispatcher.times import Instant

Operation = Callable[[Turn], None]


class FailedOver(DispatcherError):
    """A replica took over the server, and nothing was recorded: compare the runs anew, go on."""


#: After one of these a tick, which has left no trace, is tried again.
FAILURES: Final = (StoreUnavailable, StoreWithheld, StoreRefused, CommitUnknown, FailedOver)


class Transactor:
    """Runs the operations of a tick, usually in one transaction."""

    def __init__(self, store: Transactions, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self.committed_at: Instant | None = None
        self.again = False
        """Whether more is due at once than the last transaction should hold."""
        self._caught_up = True
        self._before: Turn | None = None
        """The last transaction of the tick, which is repeated in parts."""
        self.version: Version | None = None
        """The store's version in the first transaction of the tick."""
        self._history: History | None = None
        """The one with which the memory agrees; None: not known yet."""

    def begin_tick(self, *, caught_up: bool) -> None:
        """Prepare for the transactions of a tick; see `Turn.caught_up`."""
        self.again, self._caught_up = False, caught_up
        self._before = self.version = None

    def run(self, operations: Sequence[Operation], at: Instant) -> Turn:
        """Run operations in one transaction, and after its commit their effects; return its turn.

        Raises `FailedOver`, without running any, if the store's history is another one.
        """
        with self._store.transaction() as now:
            self.version = self.version or self._store.version()
            history = self._store.history
            if self._history not in (None, history):
                operations = ()
            gap = 0.0 if self.committed_at is None else at - self.committed_at
            if self._memory.workers_unreachable is not None:
                gap = math.inf  # workers cannot reach us, as if we were away
            turn = Turn(now, at, gap, self._caught_up)
            if self._before is not None:
                turn.follow(self._before)
            for operation in operations:
                operation(turn)
        before, self._history = self._history, history
        if before not in (None, history):
            self.again = True
            raise FailedOver(f"timeline {history.timeline}")
        self._before = turn
        self.again |= turn.again
        self.committed_at = at
        for effect in turn.effects:
            effect()
        return turn
