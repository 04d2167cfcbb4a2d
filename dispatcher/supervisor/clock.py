"""The host's clock, which anybody may set: no decision goes by it, and people are told of it."""

from __future__ import annotations

from functools import partial

import structlog

from dispatcher.store.api import Store
from dispatcher.supervisor.turn import Turn

log = structlog.get_logger()


class ClockWatch:
    """Notices in each tick that the host's clock was set."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def watch(self, turn: Turn) -> None:
        """Remember that it was set, for all who turn store times into dates, and log it."""
        if gap_ms := self._store.watch_clock():
            way = "ahead" if gap_ms > 0 else "back"
            message = f"the host's clock was set {way}; no lease, delay or time-out changed for it"
            turn.after(partial(log.warning, "clock.stepped", gap_ms=gap_ms, message=message))
