"""Whether anything is left to do on this node: for a daemon that stops, or runs until idle."""

from functools import partial

import structlog

from dispatcher.supervisor.turn import Shared, Turn

log = structlog.get_logger()


class Idleness:
    """Reads what is unfinished, if a stop or `until_idle` needs to know."""

    def __init__(self, shared: Shared) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self.is_idle = False
        """Whether only people can make a task go on."""
        self.nothing_open = False
        """Whether this node has no open run, and no executor that could have one."""

    def look_for_work(self, turn: Turn) -> None:
        memory, nothing_open, is_idle = self._memory, self.nothing_open, self.is_idle
        if memory.stopping.how is not None:
            missing = memory.hello is None and self._executor.missing
            nothing_open = missing and not self._store.open_runs(memory.settings.node_id)
        if memory.settings.until_idle:
            goes_on = memory.hello is None or memory.live.count(but=turn.closed) > 0
            is_idle = not goes_on and self._needs_people(turn)
        turn.after(partial(self._remember, nothing_open=nothing_open, is_idle=is_idle))

    def _needs_people(self, turn: Turn) -> bool:
        """Return whether no task goes on by itself; log the paused queues with tasks, once."""
        by_hand = self._memory.settings.by_hand
        paused = [one.queue for one in self._store.paused_queues()]
        labels = None
        if (settings := self._memory.settings).session is None:  # nobody else runs what it may not
            labels = settings.labels
            row = self._store.node(settings.node_id)
            if row is not None and row.draining is not None and not self._memory.live:
                if not self.is_idle:
                    turn.after(partial(log.warning, "node.left_draining", reason=row.draining))
                return True
        if self._store.has_unfinished(but=[*by_hand, *paused], labels=labels):
            return False
        if paused and not self.is_idle and self._store.has_unfinished(but=by_hand):
            turn.after(partial(log.warning, "queue.left_paused", queues=paused))
        return True

    def _remember(self, *, nothing_open: bool, is_idle: bool) -> None:
        self.nothing_open, self.is_idle = nothing_open, is_idle
