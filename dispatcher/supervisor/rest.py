"""When a tick is left out, or replaced by one question: whether the store has work, and when."""

from functools import partial

from dispatcher.executor_api import ExecutorApi
from dispatcher.store.api import Store, Version
from dispatcher.supervisor.turn import Memory, Turn
from dispatcher.times import LONG_AGO, NEVER, Instant


class Rest:
    """The time after a tick in which another one would find what that one found.

    Only while this node has no run: with runs, each message of the executor may decide something,
    and the time without a commit counts as the daemon's absence.
    """

    def __init__(self, store: Store, executor: ExecutorApi, memory: Memory) -> None:
        self._store, self._executor, self._memory = store, executor, memory
        self.until = LONG_AGO
        """When the next tick is due."""
        self.work_at = NEVER
        """When there is work, by the last answer."""
        self._version: Version | None = None
        """The store's version that the last tick saw; None: not known."""

    def begin(self, until: Instant, version: Version | None) -> None:
        """Rest after a tick that saw this version of the store; None: do not."""
        self.until, self._version = until, version if self._is_idle else None

    def end(self) -> None:
        """Let the next tick do everything."""
        self.until, self.work_at, self._version = LONG_AGO, NEVER, None

    @property
    def goes_on(self) -> bool:
        """Whether nothing can have changed since it began, but by time and unannounced commits."""
        if self._version is None or not self._is_idle:
            return False
        return self._store.version() == self._version

    def wake_at(self, at: Instant) -> Instant:
        """Return when to find out, without the store, whether it goes on: each poll."""
        return min(self.until, Instant(at + self._memory.settings.poll))

    @property
    def longest(self) -> float:
        """Seconds until the store is asked again.

        On a server whose rings arrive, that is how late the daemon may find what never rings: local
        claims. On an embedded store the version shows each commit.
        """
        settings = self._memory.settings
        shown = settings.session is None or self._store.bell.heard is not None
        return settings.reap_interval if shown else min(settings.poll, settings.reap_interval)

    def ask(self, turn: Turn) -> None:
        """Ask whether there is work; if so, a whole tick follows at once."""
        settings = self._memory.settings
        work_at = self._store.next_work(
            settings.node_id, settings.session_uid, labels=settings.labels, now=turn.now
        )
        turn.again |= work_at is not None and work_at <= turn.now
        turn.after(partial(self._remember, turn.instant_of(work_at), turn.at))

    def _remember(self, work_at: Instant, at: Instant) -> None:
        self.work_at = work_at
        self._memory.figures.reaped_at = at

    @property
    def _is_idle(self) -> bool:
        memory = self._memory
        if memory.stopping.how is not None or memory.settings.until_idle:
            return False
        if memory.live or memory.stranded or memory.surplus or memory.claims_postponed is not None:
            return False
        return memory.is_served_by(self._executor)
