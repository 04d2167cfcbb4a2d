"""The leases of this node's runs: renewed, expired, and spared when the fault was ours."""

import math
from functools import partial

import structlog

from dispatcher import policy
from dispatcher.execution import BegunEnding, OpenRun
from dispatcher.model import Outcome
from dispatcher.supervisor.live_runs import LiveRun
from dispatcher.supervisor.turn import Shared, Turn
from dispatcher.times import LONG_AGO, NEVER, Alarm, Instant
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Expired leases decided on in one transaction. Bounds how long a beat waits for its answer.
REAP_BATCH = 100


class Reaper:
    """Decides which leases are renewed and which runs are lost. No living pid saves a lease."""

    def __init__(self, shared: Shared) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._checked_at: Instant | None = None
        """When leases were last checked; None: not since this daemon started."""
        self._renewed_at = LONG_AGO
        self._suspected: dict[RunUid, Instant] = {}
        """When each lease was first seen expired, while the executor has not answered since."""
        self._disconnected_at: Instant | None = None
        """Since when workers may wait at a socket that we have not received."""
        self._searched_at = LONG_AGO
        """When the store was last searched for the lease of a worker that expires next."""
        self.expiry = Alarm(NEVER)
        """For the lease of a worker that expires next."""

    def may_spare(self, at: Instant) -> bool:
        """Return whether leases may be renewed because of our absence."""
        if self._checked_at is None or self._disconnected_at is not None:
            return True
        return self._is_long(self._gap_ms(at))

    def renew_leases(self, turn: Turn) -> None:
        """Renew the leases that the daemon owns, and those that expired because we were away."""
        self._spare_after_absence(turn)
        shortest = self._memory.live.shortest_lease
        renewed = shortest < math.inf and turn.at >= self._renewed_at + shortest / 3
        if renewed:
            node, but = self._memory.settings.node_id, turn.held.tasks.keys()
            self._store.renew(node, but=but, now=turn.now)
        connected = self._memory.hello is not None
        turn.after(partial(self._remember_checked, turn.at, renewed=renewed, connected=connected))

    def end_lost_runs(self, turn: Turn) -> None:
        """Begin the ending `lost` of each worker run whose lease has expired.

        Not before the executor has answered since: a worker that exited sends no heartbeat either,
        and an executor that stands still could not report the exit.
        """
        self._spare_after_disconnection(turn)
        if not self._memory.live.workers:
            turn.after(partial(self._remember_searched, LONG_AGO, NEVER))
            return
        if not self._may_expire(turn.at):
            return
        node = self._memory.settings.node_id
        expired = self._store.expired(node, limit=REAP_BATCH, now=turn.now)
        expired = [
            run
            for run in expired
            if run.run_uid not in turn.held.tasks and not self._is_retrying(run, turn.at)
        ]
        lost = self._confirmed(expired, turn)
        for run in lost:
            turn.after(partial(self._log_expired, run))
        if lost:
            self._store.begin_endings([_lost(run) for run in lost], now=turn.now)
        turn.again |= len(lost) == REAP_BATCH
        expires_at = turn.instant_of(self._store.next_expiry(node))
        turn.after(partial(self._remember_searched, turn.at, expires_at))

    def end_declared_runs(self, turn: Turn) -> None:
        """Begin to end workers that declared their end and did not exit in time."""
        late = [
            live.uid
            for live in self._memory.live.past_exits(turn.at)
            if live.exit_by is not None and self._executor.has_answered(since=live.exit_by)
            if live.uid not in turn.closed and live.uid not in turn.held.tasks
        ]
        if not late:
            return
        endings = [
            BegunEnding(uid, policy.DECLARED[declared], f"it declared {declared} and did not exit")
            for uid, run in self._store.open_runs_among(late).items()
            if (declared := run.declared) is not None
        ]
        if endings:
            self._store.begin_endings(endings, now=turn.now)

    def _may_expire(self, at: Instant) -> bool:
        """Return whether the lease of a worker may have expired by now.

        A lease that was found is shortened by hand alone, and one that came since is not over
        before a new search. Each search looks at all open runs of this node.
        """
        interval = min(self._memory.live.shortest_lease / 4, self._memory.settings.reap_interval)
        return self.expiry.is_due(at) or at >= self._searched_at + interval

    def _is_retrying(self, run: OpenRun, at: Instant) -> bool:
        """Return whether its worker sent a heartbeat to a busy store, and may send it again."""
        live = self._memory.live.get(run.run_uid)
        if live is None or live.unrecorded_at is None:
            return False
        return at - live.unrecorded_at < live.lease_ttl / 2

    def _confirmed(self, expired: list[OpenRun], turn: Turn) -> list[OpenRun]:
        """Return the runs first seen expired before the executor's last answer."""
        suspected: dict[RunUid, Instant] = {}
        confirmed = []
        for run in expired:
            since = self._suspected.get(run.run_uid, turn.at)
            if self._executor.has_answered(since=since):
                confirmed.append(run)
            else:
                suspected[run.run_uid] = since
        turn.after(partial(self._suspect, suspected))
        return confirmed

    def _spare_after_absence(self, turn: Turn) -> None:
        """Renew once the leases that expired while no daemon ran, or this one stood still."""
        node = self._memory.settings.node_id
        if self._checked_at is None:
            seen = [row.seen_at for row in self._store.nodes() if row.id == node]
            gap_ms = max(0, turn.now - seen[0]) if seen else 0
        else:
            gap_ms = self._gap_ms(turn.at)
        if self._checked_at is None or self._is_long(gap_ms):
            self._spare(turn, gap_ms)

    def _gap_ms(self, at: Instant) -> int:
        """Return the time since leases were last checked by this daemon."""
        return 0 if self._checked_at is None else round((at - self._checked_at) * 1000)

    def _is_long(self, gap_ms: int) -> bool:
        """Return whether it is longer than half of a lease; before the greeting none is known."""
        return (
            gap_ms > (0.0 if self._memory.hello is None else self._memory.live.shortest_lease) * 500
        )

    def _spare_after_disconnection(self, turn: Turn) -> None:
        """Renew once the leases whose heartbeats may have waited at a closed socket."""
        if self._disconnected_at is not None:
            gap_ms = round((turn.at - self._disconnected_at) * 1000)
            turn.after(self._remember_connected)
            self._spare(turn, gap_ms)

    def _spare(self, turn: Turn, gap_ms: int) -> None:
        node = self._memory.settings.node_id
        but = turn.held.tasks.keys()
        spared = self._store.renew_short(node, gap_ms=gap_ms, but=but, now=turn.now)
        if spared:
            turn.after(partial(log.warning, "daemon.was_away", leases=spared, gap_ms=gap_ms))

    def _remember_checked(self, at: Instant, *, renewed: bool, connected: bool) -> None:
        self._checked_at = at
        if renewed:
            self._renewed_at = at
        if not connected and self._disconnected_at is None:
            self._disconnected_at = at

    def _remember_searched(self, at: Instant, expires_at: Instant) -> None:
        self._searched_at = at
        self.expiry.set(expires_at)

    def _remember_connected(self) -> None:
        self._disconnected_at = None

    def _suspect(self, suspected: dict[RunUid, Instant]) -> None:
        self._suspected = suspected

    def _log_expired(self, run: OpenRun) -> None:
        live = self._memory.live.get(run.run_uid) or LiveRun.of(run)
        log.warning("lease.expired", ttl_s=run.lease_ttl_ms / 1000, **live.ids())


def _lost(run: OpenRun) -> BegunEnding:
    reason = f"its lease of {run.lease_ttl_ms / 1000:g} s expired: no heartbeat"
    return BegunEnding(run.run_uid, Outcome.LOST, reason)
