"""The ends of runs: which run ends now and why, and the order to the executor."""

from functools import partial

import structlog

from dispatcher import wire
from dispatcher.execution import BegunEnding
from dispatcher.model import Outcome
from dispatcher.supervisor.live_runs import LiveRun
from dispatcher.supervisor.reaper import Reaper
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.timeouts import Timeouts
from dispatcher.supervisor.turn import Shared, Turn
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
        endings = [
            BegunEnding(uid, Outcome.RELEASED, "the daemon stops")
            for uid in self._memory.live.going_on
            if uid not in turn.closed and uid not in turn.held.tasks
        ]
        if endings:
            self._store.begin_endings(endings, now=turn.now)

    def send_endings(self, turn: Turn) -> None:
        """Order the executor to end each run whose ending the store has and it has not.

        The command line writes endings too.
        """
        live, at_once = self._memory.live, self._memory.stopping.how is Stop.AT_ONCE
        hastened = live.ending_gently if at_once else {}
        wanted = live.going_on.keys() | hastened.keys() if hastened else live.going_on.keys()
        if not wanted or not self._memory.is_served_by(self._executor):
            return
        if not (turn.looks or self._store.announces or hastened):
            return
        for one in self._store.endings(self._memory.settings.node_id, among=wanted):
            turn.after(partial(self._send_end, live[one.run_uid], one, turn.at, at_once=at_once))

    def _send_end(self, live: LiveRun, one: BegunEnding, at: Instant, *, at_once: bool) -> None:
        assert one.ending is not None
        self._memory.live.end_sent(live, at, at_once=at_once)
        self._executor.send(wire.End(uid=one.run_uid, reason=one.ending, at_once=at_once))
        log.info("run.ending", ending=one.ending, reason=one.ending_reason, **live.ids())
