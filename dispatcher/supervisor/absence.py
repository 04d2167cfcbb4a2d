"""Confirm this node's claims, and compare them; take over the claims of silent nodes."""

from functools import partial

from dispatcher import wire
from dispatcher.supervisor.abandoned import SETTLE_BATCH, settle_abandoned
from dispatcher.supervisor.failover import Failover
from dispatcher.supervisor.lost import LostClaims
from dispatcher.supervisor.outage import RETURN
from dispatcher.supervisor.stranded import StrandedRuns, log_taken
from dispatcher.supervisor.turn import Shared, Turn
from dispatcher.times import LONG_AGO, Alarm, Instant
from dispatcher.wire import RunUid

#: Seconds until claims are searched again whose rows another transaction had locked.
PASSED_OVER = 1.0


class Absence:
    """Keeps `takeover_at` of this node's claims ahead, and the executor's kill deadlines before it.

    Claims of this node are never taken over here: only its executor knows what became of them, and
    `reconcile` compares them.
    """

    def __init__(self, shared: Shared, stranded: StrandedRuns, failover: Failover) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._rng = shared.rng
        self._stranded = stranded
        self._failover = failover
        self._lost = LostClaims(shared)
        self._unknown: set[RunUid] = set()
        """Claims of this node that were unknown here at the last confirmation."""
        self._greeted: wire.Hello | None = None
        self._unconfirmed: frozenset[RunUid] = frozenset()
        """Runs that were left out of the last confirmation, as others had locked their rows."""
        self._renewal = Alarm()
        self._scan = Alarm()
        self._has_begun = False
        self._others_until = LONG_AGO
        """Until when other nodes may return from an outage."""
        self._silent_since: Instant | None = None
        self._left = 0.0
        """Seconds that were left of that moment when the store fell silent again."""

    @property
    def due(self) -> Instant:
        limited = self._memory.settings.absence_limit is not None
        return min(self._renewal.at, self._scan.at) if limited else self._scan.at

    def confirms(self, at: Instant) -> bool:
        """Return whether this node's claims are to be confirmed.

        Each quarter of the limit; and for each executor that has just greeted us, as it may have
        the deadlines of another configuration.
        """
        is_new = self._memory.hello is not self._greeted
        limited = self._memory.settings.absence_limit is not None
        return is_new or (limited and self._renewal.is_due(at))

    def renew_takeover_deadlines(self, turn: Turn) -> None:
        """Renew in the store, and after the commit the executor's kill deadlines.

        Without the runs whose rows others have locked: as soon as one is free, that follows.
        """
        locked = turn.held.runs
        if not self.confirms(turn.at) and self._unconfirmed <= locked:
            return
        settings = self._memory.settings
        until = settings.takeover_at(turn.now)
        confirmed = self._store.confirm(settings.node_id, until, but=locked)
        lost = self._memory.live.keys() - confirmed - turn.closed
        if lost or self._unknown_among(confirmed) - self._unknown:
            turn.claims_blocked = turn.again = True  # `_compare` comes after the commit
        turn.after(partial(self._compare, confirmed))
        turn.after(partial(self._send_renewal, self._memory.hello, turn.at, locked))

    def await_others(self, silent_since: Instant | None, at: Instant) -> None:
        """Take nothing over for a moment after an outage, which others may have had too.

        They may have runs to record that ended meanwhile. An outage that was shorter than this
        moment has cost nobody a claim; but what was left of the moment after another one begins at
        its end. A daemon on a shared store does not know what was before it began: an outage may
        just have ended.
        """
        left = 0.0
        if silent_since is None:
            if not self._has_begun and self._memory.settings.session is not None:
                left = RETURN
        else:
            if self._silent_since is None:
                self._left = max(0.0, self._others_until - silent_since)
            left = RETURN if at >= silent_since + RETURN else self._left
        self._has_begun, self._silent_since = True, silent_since
        if left:
            self._others_until = Instant(at + left)
            self._scan.set(self._others_until)

    def take_over(self, turn: Turn) -> None:
        """Settle local claims that are over, and the claims of silent nodes.

        Between two scans only those that were declared or ended: to judge silence is to wait for
        others after an outage, and for what has not been read.
        """
        scans = self._scan.is_due(turn.at) and turn.caught_up
        if not turn.abandoned and not scans:
            return
        settings = self._memory.settings
        taken = settle_abandoned(self._store, expired=scans, rng=self._rng, now=turn.now)
        for run, settlement in taken:
            turn.after(partial(log_taken, self._memory, run, settlement))
        more = len(taken) == SETTLE_BATCH
        turn.again |= more
        if not scans:
            return
        more |= self._stranded.settle(turn)
        turn.again |= more
        scan_at = turn.at if more else turn.at + settings.reap_interval
        known = self._memory.stranded.keys()
        if not more and self._store.passes_over(settings.node_id, but=known, now=turn.now):
            scan_at = min(scan_at, turn.at + PASSED_OVER)
        takeover_at = self._store.next_takeover(settings.node_id, now=turn.now)
        scan_at = min(scan_at, turn.instant_of(takeover_at))
        turn.after(partial(self._scan.set, scan_at))

    def _compare(self, confirmed: set[RunUid]) -> None:
        """End the runs whose claims the store does not have: another node has taken them.

        Claims that it has, and that are unknown here, are searched for once: by a comparison with
        the executor's runs.
        """
        self._lost.end(self._memory.live.keys() - confirmed)
        before, self._unknown = self._unknown, self._unknown_among(confirmed)
        if self._memory.hello is not None and self._unknown - before:
            self._failover.reconcile()

    def _unknown_among(self, confirmed: set[RunUid]) -> set[RunUid]:
        memory = self._memory
        return confirmed - memory.live.keys() - memory.stranded.keys() - memory.uncompared

    def _send_renewal(
        self, hello: wire.Hello | None, at: Instant, locked: frozenset[RunUid]
    ) -> None:
        self._greeted, self._unconfirmed = hello, locked & self._memory.live.keys()
        if (limit := self._memory.settings.absence_limit) is not None:
            self._renewal.set(at + limit / 4)
        if moved := [uid for uid in self._memory.live if uid not in locked]:
            deadlines = self._memory.settings.kill_deadlines(at)
            self._executor.send(wire.Renew(deadlines=dict.fromkeys(moved, deadlines)))
