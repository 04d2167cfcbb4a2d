"""Open runs that no executor knows: settled once nothing of them lives on this host.

They belong to other nodes, if claims were taken over or a database was restored or moved; or to
this node, if its executor does not know them.
"""

from collections.abc import Collection, Mapping
from functools import partial

import structlog

from dispatcher import policy, wire
from dispatcher.daemon_report import StrandedReport
from dispatcher.execution import OpenRun, Settlement
from dispatcher.executor_api import END_THEM
from dispatcher.model import Outcome
from dispatcher.supervisor.abandoned import SETTLE_BATCH
from dispatcher.supervisor.live_runs import LiveRun
from dispatcher.supervisor.turn import Memory, Shared, Turn
from dispatcher.wire import RunUid

log = structlog.get_logger()


class StrandedRuns:
    """Searches this host for processes of such runs, and settles runs without any."""

    def __init__(self, shared: Shared) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._rng = shared.rng

    def living(self, turn: Turn, runs: Collection[OpenRun]) -> Mapping[RunUid, str]:
        """Map each run that may have living processes, and so stays open, to their description."""
        if not runs:
            return {}
        output_dir = self._memory.settings.output_dir
        # A state directory that was moved has the files with it.
        outputs = {
            run.run_uid: (run.output_path, f"{output_dir}/{run.run_uid}.log") for run in runs
        }
        living = self._executor.survivors(outputs)
        for run in runs:
            if run.run_uid in living:
                turn.after(partial(self._remember, run, living[run.run_uid]))
        return living

    def settle(self, turn: Turn) -> bool:
        """Settle runs of which nothing lives; return whether there are more."""
        node_id = self._memory.settings.node_id
        known = self._memory.stranded.keys()
        found = self._store.stranded(node_id, known=known, limit=SETTLE_BATCH, now=turn.now)
        runs = {run.run_uid: run for run in found}
        more = len(runs.keys() - known) == SETTLE_BATCH
        unfound = self._memory.stranded.keys() - runs.keys()
        locked = self._store.passed_over(node_id, unfound, now=turn.now)
        ours = {uid for uid in unfound if self._memory.stranded[uid].is_ours}
        if ours:
            runs |= self._store.take_runs(ours)
        if left := unfound - runs.keys():
            # Others have ended, or their node is back and has confirmed them.
            stay = self._store.open_runs_among(left).keys() & (ours | locked)
            for uid in left - stay:
                turn.after(partial(self._forget, uid))
        living = self.living(turn, runs.values())
        over = [run for uid, run in runs.items() if uid not in living]
        settlements = [
            policy.settle(run, None, now=turn.now, ended_at=turn.now, rng=self._rng)
            for run in over[:SETTLE_BATCH]
        ]
        if settlements:
            self._store.settle(settlements, now=turn.now)
        for run, settlement in zip(over, settlements, strict=False):
            turn.after(partial(self._settled, run, settlement))
        return more or len(over) > SETTLE_BATCH

    def _remember(self, run: OpenRun, why: str) -> None:
        is_ours = run.owner == self._memory.settings.node_id
        if is_ours:  # no operator is needed
            why = why.removesuffix(END_THEM)
        if run.run_uid not in self._memory.stranded:
            log.warning("run.stranded", owner=run.owner, reason=why, **LiveRun.of(run).ids())
        self._memory.stranded[run.run_uid] = StrandedReport(
            task_id=run.task_id, fence=run.fence, why=why, is_ours=is_ours
        )
        if is_ours:
            # Our executor died and its journal was lost: its successor ends what it finds.
            end = wire.End(uid=run.run_uid, reason=run.ending or Outcome.ORPHANED, at_once=True)
            self._executor.send(end)

    def _forget(self, uid: RunUid) -> None:
        self._memory.stranded.pop(uid, None)

    def _settled(self, run: OpenRun, settlement: Settlement) -> None:
        self._forget(run.run_uid)
        log_taken(self._memory, run, settlement)


def log_taken(memory: Memory, run: OpenRun, settlement: Settlement) -> None:
    """Count and log the settlement of a claim whose end no executor reported."""
    memory.figures.settled[settlement.outcome] += 1
    ids = LiveRun.of(run).ids()
    log.warning("claim.taken_over", owner=run.owner, reason=settlement.run_reason, **ids)
    log.info(
        "run.settled",
        outcome=settlement.outcome,
        reason=settlement.run_reason,
        state=settlement.state,
        **ids,
    )
