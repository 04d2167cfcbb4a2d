"""The ends of runs: which run ends now and why, and the order to the executor."""

from functools import partial

import structlog

from dispatcher import wire
from dispatcher.execution import OpenRun
from dispatcher.model import Outcome
from dispatcher.supervisor.reaper import Reaper
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.timeouts import Timeouts
from dispatcher.supervisor.turn import LiveRun, Shared, Turn
from dispatcher.times import Instant

log = structlog.get_logger()


class Ender:
    """Decides which runs end, and orders the executor to end them.

    Both wait while the executor does not answer: it could end nothing, and a worker that exited in
    time must not be judged late.
    """

    def __init__(self, shared: Shared, reaper: Reaper, timeouts: Timeouts) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._reaper = reaper
        self._timeouts = timeouts

    def decide_endings(self, turn: Turn) -> None:
        """End runs whose worker, lease, time-out or daemon demands it."""
        memory = self._memory
        if not memory.is_served_by(self._executor) or not turn.caught_up:
            return
        self._reaper.end_declared_runs(turn)
        if memory.workers_unreachable is None:
            self._reaper.end_lost_runs(turn)
        memory.figures.reaped_at = turn.at
        self._timeouts.end_runs(turn)
        deadline = memory.stopping.deadline
        is_late = memory.stopping.ends_runs and turn.at >= deadline
        if is_late and self._executor.has_answered(since=deadline):
            self._release_all(turn)

    def _release_all(self, turn: Turn) -> None:
        for uid, live in self._memory.live.items():
            if not live.end_sent and uid not in turn.closed:
                reason = "the daemon stops"
                self._store.begin_ending(uid, Outcome.RELEASED, reason, now=turn.now)

    def send_endings(self, turn: Turn) -> None:
        """Order the executor to end each run whose ending the store has and it has not.

        The command line writes endings too.
        """
        if not self._memory.is_served_by(self._executor) or not self._memory.live:
            return
        at_once = self._memory.stopping.how is Stop.AT_ONCE
        if not (turn.looks or self._store.announces or at_once):
            return
        for run in self._store.endings(self._memory.settings.node_id):
            live = self._memory.live.get(run.run_uid)
            if live is not None and (not live.end_sent or (at_once and not live.at_once_sent)):
                turn.after(partial(self._send_end, live, run, turn.at, at_once=at_once))

    def _send_end(self, live: LiveRun, run: OpenRun, at: Instant, *, at_once: bool) -> None:
        assert run.ending is not None
        live.end_sent_at, live.at_once_sent = live.end_sent_at or at, at_once
        self._executor.send(wire.End(uid=run.run_uid, reason=run.ending, at_once=at_once))
        log.info("run.ending", ending=run.ending, reason=run.ending_reason, **live.ids())
