"""Scheduled tasks whose time has come."""

from __future__ import annotations

from functools import partial

from dispatcher.store.api import SupervisorStore
from dispatcher.supervisor.alarm import Alarm
from dispatcher.supervisor.turn import Turn
from dispatcher.times import NEVER, instant_of

#: Scheduled tasks moved to ready in one transaction. Bounds how long a worker waits for its answer.
DUE_BATCH = 500


class DueTasks:
    """Moves scheduled tasks to ready."""

    def __init__(self, store: SupervisorStore) -> None:
        self._store = store
        self.next = Alarm(NEVER)
        """For the task that is due next."""

    def move_due(self, turn: Turn) -> None:
        """Move the tasks that are due."""
        moved = self._store.move_due(limit=DUE_BATCH, now=turn.now)
        turn.again |= moved == DUE_BATCH
        due_at = instant_of(self._store.next_due(), now=turn.now, at=turn.at)
        turn.after(partial(self.next.set, due_at))
