"""What workers and executor reported of runs that go on: a statement for each kind of change."""

from dispatcher import policy, wire
from dispatcher.execution import BegunEnding
from dispatcher.outbox import merged
from dispatcher.supervisor.turn import Shared, Turn
from dispatcher.supervisor.worker_recorder import WorkerRecorder


class Changes:
    """Keeps them on the turn, until `record` writes them all."""

    def __init__(self, shared: Shared, workers: WorkerRecorder) -> None:
        self._store = shared.store
        self._workers = workers

    def keep_notice(self, turn: Turn, notice: wire.Notice) -> None:
        """Keep what a worker sent to the executor, to record it as if it had been sent to us."""
        if notice.uid in turn.pending_exits or notice.uid in turn.pending_endings:
            self.record(turn)  # what came before
        turn.pending_notices[notice.uid] = merged(turn.pending_notices.get(notice.uid), notice)

    def keep_facts(self, turn: Turn, fresh: wire.Changed | wire.RunReport) -> bool:
        """Keep the leader's exit, and an ending that the executor began by itself.

        Returns whether there is any.
        """
        if (end := fresh.exit) is not None:
            turn.pending_exits[fresh.uid] = end
        outcome = None if fresh.ended_by is None else policy.outcome_of_ending(fresh.ended_by)
        if outcome is not None:
            begun = BegunEnding(fresh.uid, outcome, f"ended by the executor: {fresh.ended_by}")
            turn.pending_endings.setdefault(fresh.uid, begun)
        return end is not None or outcome is not None

    def record(self, turn: Turn) -> None:
        """Write what the turn has kept."""
        notices, turn.pending_notices = turn.pending_notices, {}
        exits, turn.pending_exits = turn.pending_exits, {}
        endings, turn.pending_endings = turn.pending_endings, {}
        if notices:
            self._workers.record_notices(turn, notices.values())
        if exits and self._store.record_leader_exits(exits, now=turn.now) < len(exits):
            turn.doubted |= exits.keys()
        if endings and self._store.begin_endings([*endings.values()], now=turn.now) < len(endings):
            turn.doubted |= endings.keys() - exits.keys()
