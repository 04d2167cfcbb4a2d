"""The leases of this node's runs: renewed, found expired, and spared when the fault was ours."""

from __future__ import annotations

import math
from functools import partial

import structlog

from dispatcher import policy
from dispatcher.execution import OpenRun
from dispatcher.executor_api import ExecutorApi
from dispatcher.model import Liveness, Outcome
from dispatcher.store.api import SupervisorStore
from dispatcher.supervisor.alarm import Alarm
from dispatcher.supervisor.turn import LiveRun, Memory, Turn
from dispatcher.times import LONG_AGO, NEVER, Instant, instant_of
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Expired leases decided on in one transaction. Bounds how long a beat waits for its answer.
REAP_BATCH = 100


class Reaper:
    """Decides which leases go on and which runs are lost. Expiry means expiry: it asks no pid."""

    def __init__(self, store: SupervisorStore, executor: ExecutorApi, memory: Memory) -> None:
        self._store = store
        self._executor = executor
        self._memory = memory
        self._kept_at: Instant | None = None
        """When leases were last looked after; None: not since this daemon started."""
        self._renewed_at = LONG_AGO
        self._suspected: dict[RunUid, Instant] = {}
        """When each lease was first seen expired on which the executor was not heard yet."""
        self._deaf_since: Instant | None = None
        """Since when workers may wait at a door that an executor has not opened to us."""
        self.expiry = Alarm(NEVER)
        """Of the lease of a worker that expires next."""

    def keep_leases(self, turn: Turn) -> None:
        """Renew what is the daemon's to renew, and what expired only because we were away."""
        self._spare_after_absence(turn)
        shortest = min((live.lease_ttl for live in self._memory.live.values()), default=math.inf)
        renewed = turn.at >= self._renewed_at + shortest / 3
        if renewed:
            self._store.renew(self._memory.settings.node_id, now=turn.now)
        deaf = self._memory.hello is None
        turn.after(partial(self._note_kept, turn.at, renewed=renewed, deaf=deaf))

    def end_the_lost(self, turn: Turn) -> None:
        """Begin the ending `lost` of each worker run whose lease has expired.

        Not before the executor has spoken since: a worker that exited does not beat either, and an
        executor that stands still could not say so.
        """
        self._spare_after_deafness(turn)
        lives = self._memory.live.values()
        if not any(live.liveness is Liveness.WORKER for live in lives):
            turn.after(partial(self.expiry.set, NEVER))
            return
        node = self._memory.settings.node_id
        expired = self._store.expired(node, limit=REAP_BATCH, now=turn.now)
        expired = [run for run in expired if not self._was_turned_away(run, turn.at)]
        lost = self._may_be_judged(expired, turn)
        for run in lost:
            reason = f"its lease of {run.lease_ttl_ms / 1000:g} s expired: no heartbeat"
            self._store.begin_ending(run.run_uid, Outcome.LOST, reason, now=turn.now)
            turn.after(partial(self._log_expired, run))
        turn.again |= len(lost) == REAP_BATCH
        expires_at = instant_of(self._store.next_expiry(node), now=turn.now, at=turn.at)
        turn.after(partial(self.expiry.set, expires_at))

    def _note_kept(self, at: Instant, *, renewed: bool, deaf: bool) -> None:
        self._kept_at = at
        if renewed:
            self._renewed_at = at
        if deaf and self._deaf_since is None:
            self._deaf_since = at

    def _note_heard(self) -> None:
        self._deaf_since = None

    def _suspect(self, suspected: dict[RunUid, Instant]) -> None:
        self._suspected = suspected

    def _was_turned_away(self, run: OpenRun, at: Instant) -> bool:
        """Say whether its worker spoke while the store was busy, and may be about to again."""
        live = self._memory.live.get(run.run_uid)
        if live is None or live.turned_away_at is None:
            return False
        return at - live.turned_away_at < live.lease_ttl / 2

    def _may_be_judged(self, expired: list[OpenRun], turn: Turn) -> list[OpenRun]:
        """Return those of whom the executor has spoken since they were first seen expired."""
        suspected: dict[RunUid, Instant] = {}
        judged = []
        for run in expired:
            since = self._suspected.get(run.run_uid, turn.at)
            if self._executor.has_answered(since=since):
                judged.append(run)
            else:
                suspected[run.run_uid] = since
        turn.after(partial(self._suspect, suspected))
        return judged

    def end_the_declared(self, turn: Turn) -> None:
        """Begin to end workers that declared their end and did not exit in time."""
        for uid, live in self._memory.live.items():
            if live.exit_by is None or turn.at < live.exit_by:
                continue
            if live.told_to_end or uid in turn.closed:
                continue
            if not self._executor.has_answered(since=live.exit_by):
                continue
            run = self._store.open_run(uid)
            if run is not None and run.declared is not None:
                reason = f"it declared {run.declared} and did not exit"
                ending = policy.DECLARED[run.declared]
                self._store.begin_ending(uid, ending, reason, now=turn.now)

    def _spare_after_deafness(self, turn: Turn) -> None:
        """Renew once what expired while its beats waited at a door that was not open to us."""
        if self._deaf_since is None:
            return
        gap_ms = round((turn.at - self._deaf_since) * 1000)
        spared = self._store.renew_short(self._memory.settings.node_id, gap_ms=gap_ms, now=turn.now)
        turn.after(self._note_heard)
        if spared:
            turn.after(partial(log.warning, "daemon.was_away", leases=spared, gap_ms=gap_ms))

    def _spare_after_absence(self, turn: Turn) -> None:
        node = self._memory.settings.node_id
        if self._kept_at is None:
            seen = [row.seen_at for row in self._store.nodes() if row.id == node]
            gap_ms = max(0, turn.now - seen[0]) if seen else 0
        else:
            gap_ms = round((turn.at - self._kept_at) * 1000)
        shortest = min((live.lease_ttl for live in self._memory.live.values()), default=0.0)
        if self._kept_at is None or gap_ms > shortest * 500:
            spared = self._store.renew_short(node, gap_ms=gap_ms, now=turn.now)
            if spared:
                turn.after(partial(log.warning, "daemon.was_away", leases=spared, gap_ms=gap_ms))

    def _log_expired(self, run: OpenRun) -> None:
        live = self._memory.live.get(run.run_uid) or LiveRun.of(run)
        log.warning("lease.expired", ttl_s=run.lease_ttl_ms / 1000, **live.ids())
