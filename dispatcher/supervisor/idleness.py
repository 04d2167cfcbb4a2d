"""Whether anything is left to do on this node: for a daemon that stops, or runs until idle."""

from __future__ import annotations

from functools import partial

import structlog

from dispatcher.supervisor.turn import Shared, Turn

log = structlog.get_logger()


class Idleness:
    """Reads from the store what is unfinished; queries it only if somebody needs the answer."""

    def __init__(self, shared: Shared) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self.is_idle = False
        """Whether only people can make a task go on."""
        self.nothing_open = False
        """Whether this node has no open run, and no executor that could have one."""

    def look_for_work(self, turn: Turn) -> None:
        """Read what is left to do."""
        settings, connected = self._memory.settings, self._memory.hello is not None
        if self._memory.stopping.how is not None:
            missing = not connected and self._executor.missing
            nothing = missing and not self._store.open_runs(settings.node_id)
            turn.after(partial(self._note_open, nothing=nothing))
        if settings.until_idle:
            turn.after(partial(self._note_idle, is_idle=connected and self._needs_people(turn)))

    def _needs_people(self, turn: Turn) -> bool:
        """Return whether no task goes on by itself; log the paused queues with tasks, once."""
        by_hand = self._memory.settings.by_hand
        paused = [one.queue for one in self._store.paused_queues()]
        if self._store.has_unfinished(but=[*by_hand, *paused]):
            return False
        if paused and not self.is_idle and self._store.has_unfinished(but=by_hand):
            turn.after(partial(log.warning, "queue.left_paused", queues=paused))
        return True

    def _note_open(self, *, nothing: bool) -> None:
        self.nothing_open = nothing

    def _note_idle(self, *, is_idle: bool) -> None:
        self.is_idle = is_idle
