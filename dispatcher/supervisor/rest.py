"""When a tick may be left out: nothing has arrived, nothing is due, and nothing was written."""

from dispatcher.executor_api import ExecutorApi
from dispatcher.store.api import Transactions, Version
from dispatcher.supervisor.turn import Memory
from dispatcher.times import LONG_AGO, Instant


class Rest:
    """The time after a tick in which another one would find what that one found.

    Only while this node has no run: with runs, each message of the executor may decide something,
    and the time without a commit counts as the daemon's absence.
    """

    def __init__(self, store: Transactions, executor: ExecutorApi, memory: Memory) -> None:
        self._store, self._executor, self._memory = store, executor, memory
        self.until = LONG_AGO
        """When the next tick is due."""
        self._version: Version | None = None
        """The store's version that the last tick saw; None: not known."""

    def begin(self, until: Instant, version: Version | None) -> None:
        """Rest after a tick that saw this version of the store."""
        self.until = until if self._is_idle else LONG_AGO
        self._version = version

    def end(self) -> None:
        """Let the next tick take place."""
        self.until = LONG_AGO

    def lasts(self, at: Instant) -> bool:
        """Return whether a tick without events and requests may be left out."""
        if at >= self.until or self._version is None or not self._is_idle:
            return False
        return self._store.version() == self._version

    @property
    def _is_idle(self) -> bool:
        memory = self._memory
        if memory.stopping.how is not None or memory.settings.until_idle:
            return False
        if memory.live or memory.stranded or memory.surplus or memory.claims_postponed is not None:
            return False
        return memory.is_served_by(self._executor)
