"""Who is silent: this node says in time that it is not, and takes the claims of those that are."""

from __future__ import annotations

import random
from functools import partial

from dispatcher import wire
from dispatcher.executor_api import Processes
from dispatcher.store.api import SupervisorStore
from dispatcher.supervisor.stranded import StrandedRuns, log_taken
from dispatcher.supervisor.takeover import TAKEOVER_BATCH, settle_abandoned
from dispatcher.supervisor.turn import Memory, Turn
from dispatcher.times import Instant


class Absence:
    """Keeps `takeover_at` of this node's claims ahead, and the executor's kill deadlines before it.

    This node's own claims are never taken over here: what became of them only its executor knows,
    and `reconcile` asks it.
    """

    def __init__(
        self,
        store: SupervisorStore,
        processes: Processes,
        memory: Memory,
        stranded: StrandedRuns,
        *,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._stranded = stranded
        self._processes = processes
        self._memory = memory
        self._rng = rng
        self._greeted: wire.Hello | None = None
        self._confirm_at = Instant(0.0)
        self._scan_at = Instant(0.0)

    @property
    def due(self) -> Instant:
        """When to confirm or to look next."""
        limited = self._memory.settings.absence_limit is not None and self._memory.live
        return min(self._confirm_at, self._scan_at) if limited else self._scan_at

    def confirm(self, turn: Turn) -> None:
        """Say that this node is there: in the store, and after the commit to its executor.

        Each quarter of the limit while it has runs; and to each executor that has just greeted us,
        whose deadlines may be those of another configuration.
        """
        memory, limit = self._memory, self._memory.settings.absence_limit
        fresh = memory.hello is not self._greeted
        if not fresh and (limit is None or turn.at < self._confirm_at):
            return
        if memory.live or memory.hello is None:
            settings = self._memory.settings
            self._store.confirm(settings.node_id, settings.stands_until(turn.now))
        turn.after(partial(self._renew, memory.hello, turn.at))

    def take_over(self, turn: Turn) -> None:
        """Settle the local claims that are over, and the claims of silent nodes."""
        if not turn.abandoned and (turn.at < self._scan_at or not turn.heard):
            return
        settings = self._memory.settings
        taken = settle_abandoned(self._store, settings.retry, rng=self._rng, now=turn.now)
        for run, settlement in taken:
            turn.after(partial(log_taken, self._memory, run, settlement))
        more = len(taken) == TAKEOVER_BATCH
        if turn.at >= self._scan_at:
            more |= self._stranded.settle(turn)
        turn.again |= more
        scan_at = turn.at if more else turn.at + settings.reap_interval
        takeover_at = self._store.next_takeover(settings.node_id, now=turn.now)
        if takeover_at is not None:
            scan_at = min(scan_at, turn.at + (takeover_at - turn.now) / 1000)
        turn.after(partial(setattr, self, "_scan_at", Instant(scan_at)))

    def _renew(self, hello: wire.Hello | None, at: Instant) -> None:
        self._greeted = hello
        if (limit := self._memory.settings.absence_limit) is not None:
            self._confirm_at = Instant(at + limit / 4)
        if self._memory.live:
            deadlines = self._memory.settings.kill_deadlines(at)
            self._processes.send(wire.Renew(deadlines=dict.fromkeys(self._memory.live, deadlines)))
