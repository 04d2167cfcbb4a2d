"""Continues bulk submits whose client is gone: accepted parts become tasks."""

from functools import partial

from dispatcher.store.api import SubmitterStore
from dispatcher.supervisor.turn import Turn
from dispatcher.times import NEVER, Alarm, Instant

#: Seconds between two looks, and between two steps while there is more to do.
LOOK_INTERVAL = 5.0
STEP_INTERVAL = 0.05


class Admission:
    """Takes one step of `continue_silent` in each transaction. A look causes no tick of its own."""

    def __init__(self, store: SubmitterStore) -> None:
        self._store = store
        self._next_look = Alarm()
        self.due = NEVER
        """When to continue; `NEVER` if the last look found nothing to do."""

    def is_due(self, at: Instant) -> bool:
        return self._next_look.is_due(at)

    def do(self, turn: Turn) -> None:
        more = self._store.continue_silent(now=turn.now)
        look_at = Instant(turn.at + (STEP_INTERVAL if more else LOOK_INTERVAL))
        turn.after(partial(self._plan, look_at, more=more))

    def _plan(self, look_at: Instant, *, more: bool) -> None:
        self._next_look.set(look_at)
        self.due = look_at if more else NEVER
