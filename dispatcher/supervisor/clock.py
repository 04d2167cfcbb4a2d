"""The host's clock, which anybody may set: no decision uses it, and its steps are logged."""

from functools import partial

import structlog

from dispatcher.calendar import UNCHANGED, Setting
from dispatcher.store.api import ReaderStore
from dispatcher.supervisor.turn import Memory, Turn

log = structlog.get_logger()


class ClockWatch:
    """Notices in each tick that the host's clock was set, also if a command noticed it first."""

    def __init__(self, store: ReaderStore, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._known: Setting | None = None

    def watch(self, turn: Turn) -> None:
        """Let the store record a step, for the conversion of store times into dates, and log it."""
        setting = self._store.watch_clock()
        if setting == self._known:
            return
        turn.after(partial(self._remember, setting))
        if (gap_ms := self._gap(setting)) and not self._store.server_step():
            way = "ahead" if gap_ms > 0 else "back"
            message = f"the host's clock was set {way}; {UNCHANGED}"
            turn.after(partial(log.warning, "clock.stepped", gap_ms=gap_ms, message=message))

    def _remember(self, setting: Setting) -> None:
        self._known = setting

    def _gap(self, setting: Setting) -> int:
        """Return by how many ms it was set since the last tick, or since this node's last row."""
        if self._known is not None:
            return setting.ahead_ms - self._known.ahead_ms
        node = self._memory.settings.node_id
        seen_at = max((row.seen_at for row in self._store.nodes() if row.id == node), default=0)
        return setting.step_ms if setting.since >= seen_at else 0
