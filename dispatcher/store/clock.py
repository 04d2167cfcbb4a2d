"""The store time of an embedded store: it follows the boot clock, which cannot be set.

The first transaction of a boot takes the time from the host's clock, but never from before the
latest row. From then on store time is the boot clock plus a constant in the store: the same for
every process, and independent of steps of the host's clock.
"""

from typing import Final

from msgspec.structs import asdict, replace

from dispatcher.calendar import Calendar, Setting
from dispatcher.store.engine import Engine
from dispatcher.times import HOST_CLOCK, HostClock, Instant, StoreTime

#: Milliseconds; a larger difference of the host's clock from the recorded one is a step.
STEP: Final = 1_000

#: Recorded settings of the host's clock: one for each boot and each step.
KEPT: Final = 1_000

_RECKONED = """
SELECT boot_ms, since, ahead_ms, step_ms FROM clock_settings WHERE reckoning = :reckoning
ORDER BY id DESC LIMIT 1
"""

_SETTINGS = "SELECT since, ahead_ms, step_ms FROM clock_settings ORDER BY id"

# The latest times in rows that may be newer than the last setting: nodes, the newest task and run,
# the last finish, beats of open runs, and bulk submits. All but the few bulk submits are found
# by an index. Without any setting, rows carry times of another clock.
_LATEST_ROWS = """
SELECT since,
    (SELECT max(seen_at) FROM nodes),
    (SELECT created_at FROM tasks ORDER BY id DESC LIMIT 1),
    (SELECT max(finished_at) FROM tasks WHERE state = 'succeeded' AND finished_at IS NOT NULL),
    (SELECT max(finished_at) FROM tasks WHERE state = 'failed' AND finished_at IS NOT NULL),
    (SELECT max(finished_at) FROM tasks WHERE state = 'cancelled' AND finished_at IS NOT NULL),
    (SELECT max(last_heartbeat_at) FROM runs WHERE outcome IS NULL),
    (SELECT COALESCE(ended_at, claimed_at) FROM runs ORDER BY id DESC LIMIT 1),
    (SELECT max(seen_at) FROM bulk_submits)
FROM clock_settings ORDER BY id DESC LIMIT 1
"""

_SET = """
INSERT INTO clock_settings (since, reckoning, boot_ms, ahead_ms, step_ms)
VALUES (:since, :reckoning, :boot_ms, :ahead_ms, :step_ms)
"""

_DROP_OLD = "DELETE FROM clock_settings WHERE id <= (SELECT max(id) FROM clock_settings) - :kept"


class Clock:
    """Computes store time, and records settings of the host's clock.

    Each transaction calls `begin` first; all methods run in one.
    """

    def __init__(self, host: HostClock = HOST_CLOCK) -> None:
        self._host = host
        self._reckoning = ""
        self._boot_ms = 0
        """Store time minus the boot clock."""
        self._setting = Setting(StoreTime(0), 0, 0)
        """The last known one."""
        self._is_stored = False
        """Whether both were read from the store: written ones may have been rolled back."""
        self._began = StoreTime(0)
        """The store time of the transaction and of the rows that it writes."""

    def begin(self, engine: Engine, *, write: bool) -> StoreTime:
        """Return the store time; in a transaction that writes, record a new boot."""
        if not self._is_stored and not self._load(engine):
            self._began = self._begin_boot(engine, write=write)
        else:
            self._began = self._store_time(self._host.instant())
        return self._began

    def watch(self, engine: Engine) -> Setting:
        """Return the last setting of the host's clock; record it if it is new.

        A step counts from the beginning of the transaction that finds it, so that the rows of that
        transaction have dates of the new setting.
        """
        if self._current().step_ms:
            self._load(engine)
            if (found := self._current()).step_ms:
                self._record(engine, replace(found, since=self._began))
        return self._setting

    def was_set(self) -> bool:
        return self._current().step_ms != 0

    def calendar(self, engine: Engine) -> Calendar:
        """Return the host's clock, now and earlier, relative to store time."""
        found = self._current()
        settings = tuple(Setting(*row) for row in engine.rows(_SETTINGS))
        return Calendar(found.since, found.ahead_ms, settings)

    def step(self) -> int:
        """Return 0: nobody can set the boot clock."""
        return 0

    def accept_step(self) -> None:
        """Do nothing, as there is none."""

    def _store_time(self, instant: Instant) -> StoreTime:
        return StoreTime(round(instant * 1000) + self._boot_ms)

    def _current(self) -> Setting:
        """Return the setting of the host's clock now; its step is 0 if it is the known one."""
        known_ms = self._setting.ahead_ms
        read = self._host.both()
        if read is None:
            return Setting(self._store_time(self._host.instant()), known_ms, 0)
        wall, now = read[0], self._store_time(read[1])
        step_ms = wall - now - known_ms
        if abs(step_ms) <= STEP:
            step_ms = 0
        return Setting(now, known_ms + step_ms, step_ms)

    def _load(self, engine: Engine) -> bool:
        self._reckoning = self._reckoning or self._host.reckoning()
        rows = engine.rows(_RECKONED, {"reckoning": self._reckoning})
        for boot_ms, *setting in rows:
            self._boot_ms, self._setting, self._is_stored = boot_ms, Setting(*setting), True
        return bool(rows)

    def _begin_boot(self, engine: Engine, *, write: bool) -> StoreTime:
        wall, instant = self._host.both() or (self._host.wall(), self._host.instant())
        known = [time for row in engine.rows(_LATEST_ROWS) for time in row if isinstance(time, int)]
        now = StoreTime(max([wall, *known]))
        self._boot_ms, self._setting = now - round(instant * 1000), Setting(now, wall - now, 0)
        if write:
            self._record(engine, self._setting)
        return now

    def _record(self, engine: Engine, setting: Setting) -> None:
        values = {"reckoning": self._reckoning, "boot_ms": self._boot_ms, **asdict(setting)}
        engine.change(_SET, values)
        engine.change(_DROP_OLD, {"kept": KEPT})
        self._setting, self._is_stored = setting, False
