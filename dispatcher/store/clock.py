"""The store time of an embedded store: it follows the boot clock, which nobody can set.

When a boot is first seen the host's clock is believed, unless it is behind the store time that was
known before. From then on store time is the boot clock and a constant that stands in the store, so
that every process of this boot has the same one, and no step of the host's clock moves it.
"""

from __future__ import annotations

from typing import Final

from dispatcher.calendar import Calendar, Setting
from dispatcher.store.engine import Engine
from dispatcher.times import HOST_CLOCK, HostClock, Instant, StoreTime

#: Milliseconds by which the host's clock may differ from what is remembered; more is a step.
STEP: Final = 1_000

#: Settings of the host's clock that are remembered: some for each boot, and for each step.
KEPT: Final = 1_000

_RECKONED = """
SELECT boot_ms, ahead_ms FROM clock_settings WHERE reckoning = :reckoning ORDER BY id DESC LIMIT 1
"""

_SETTINGS = "SELECT since, ahead_ms, step_ms FROM clock_settings ORDER BY id"

# A node's row is fresher than the last setting. Before the first setting it went by another clock.
_KNOWN_BEFORE = """
SELECT since, (SELECT max(seen_at) FROM nodes) FROM clock_settings ORDER BY id DESC LIMIT 1
"""

_SET = """
INSERT INTO clock_settings (since, reckoning, boot_ms, ahead_ms, step_ms)
VALUES (:since, :reckoning, :boot_ms, :ahead_ms, :step_ms)
"""

_DROP_OLD = "DELETE FROM clock_settings WHERE id <= (SELECT max(id) FROM clock_settings) - :kept"


class Clock:
    """Tells store time, and remembers how the host's clock stood meanwhile.

    Asked in an open transaction, at whose beginning `begin` is called.
    """

    def __init__(self, host: HostClock = HOST_CLOCK) -> None:
        self._host = host
        self._reckoning = ""
        self._boot_ms = 0
        """Store time without the boot clock."""
        self._ahead_ms = 0
        """By how much the host's clock was last known to be ahead of store time."""
        self._is_stored = False
        """Whether both were read from the store: what was only written may be rolled back."""

    def begin(self, engine: Engine, *, write: bool) -> StoreTime:
        """Return the store time; write down, if one may, that a boot is seen for the first time."""
        if not self._is_stored and not self._recall(engine):
            return self._begin_boot(engine, write=write)
        return self._at(self._host.instant())

    def watch(self, engine: Engine) -> int:
        """Write down that the host's clock was set, if it was; return by how many milliseconds."""
        now, ahead_ms = self._look()
        step_ms = ahead_ms - self._ahead_ms
        if step_ms:
            self._set(engine, now, ahead_ms=ahead_ms, step_ms=step_ms)
        return step_ms

    def calendar(self, engine: Engine) -> Calendar:
        """Return how the host's clock stands, and how it stood."""
        now, ahead_ms = self._look()
        return Calendar(now, ahead_ms, tuple(Setting(*row) for row in engine.rows(_SETTINGS)))

    def _at(self, instant: Instant) -> StoreTime:
        return StoreTime(round(instant * 1000) + self._boot_ms)

    def _look(self) -> tuple[StoreTime, int]:
        """Return store time, and by how much the host's clock is ahead of it: as known, or set."""
        read = self._host.both()
        if read is None:
            return self._at(self._host.instant()), self._ahead_ms
        now = self._at(read[1])
        ahead_ms = read[0] - now
        return now, ahead_ms if abs(ahead_ms - self._ahead_ms) > STEP else self._ahead_ms

    def _recall(self, engine: Engine) -> bool:
        self._reckoning = self._reckoning or self._host.reckoning()
        rows = engine.rows(_RECKONED, {"reckoning": self._reckoning})
        if rows:
            self._boot_ms, self._ahead_ms = rows[0]
            self._is_stored = True
        return bool(rows)

    def _begin_boot(self, engine: Engine, *, write: bool) -> StoreTime:
        wall, instant = self._host.both() or (self._host.wall(), self._host.instant())
        known = [time for row in engine.rows(_KNOWN_BEFORE) for time in row if time is not None]
        now = StoreTime(max([wall, *known]))
        self._boot_ms, self._ahead_ms = now - round(instant * 1000), wall - now
        if write:
            self._set(engine, now, ahead_ms=self._ahead_ms, step_ms=0)
        return now

    def _set(self, engine: Engine, now: StoreTime, *, ahead_ms: int, step_ms: int) -> None:
        values = {
            "since": now,
            "reckoning": self._reckoning,
            "boot_ms": self._boot_ms,
            "ahead_ms": ahead_ms,
            "step_ms": step_ms,
        }
        engine.change(_SET, values)
        engine.change(_DROP_OLD, {"kept": KEPT})
        self._is_stored = False
