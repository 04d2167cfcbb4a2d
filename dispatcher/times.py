"""Three kinds of time with three types that do not mix, alarms, and the clocks of a host."""

import errno
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from functools import lru_cache
from pathlib import Path
from typing import NewType

from msgspec import Struct

#: Milliseconds since the epoch, as the store counts them: decisions use it.
StoreTime = NewType("StoreTime", int)

#: Milliseconds since the epoch, by a host's clock: people read and write it.
WallTime = NewType("WallTime", int)

#: Seconds on this host's CLOCK_BOOTTIME, which never steps and counts during suspend.
Instant = NewType("Instant", float)

#: After and before every instant.
NEVER = Instant(math.inf)
LONG_AGO = Instant(-math.inf)


class Alarm:
    """An instant at which something is due; a new alarm is due at once."""

    def __init__(self, at: Instant = LONG_AGO) -> None:
        self.at = at

    def set(self, at: float) -> None:
        self.at = Instant(at)

    def is_due(self, at: Instant) -> bool:
        return at >= self.at


def instant() -> Instant:
    """Return the present instant."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))


def wall_clock() -> WallTime:
    """Return the host's clock. Anybody may set it: base no decision on it."""
    return WallTime(time.time_ns() // 1_000_000)


def monotonic_us() -> int:
    """Return CLOCK_MONOTONIC in microseconds; only sd_notify(3) needs it."""
    return time.monotonic_ns() // 1_000


def store_time_of(moment: Instant, *, now: StoreTime, at: Instant) -> StoreTime:
    """Return the store time of a past `moment`; `now` and `at` are the same moment."""
    return StoreTime(now - round(max(0.0, at - moment) * 1000))


def instant_of(moment: StoreTime | None, *, now: StoreTime, at: Instant) -> Instant:
    """Return the instant of a store time to come: `at` if it has passed, `NEVER` for None.

    `now` and `at` are the same moment.
    """
    return NEVER if moment is None else Instant(at + max(0, moment - now) / 1000)


def iso(moment: WallTime) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds."""
    seconds, milliseconds = divmod(moment, 1000)
    return f"{_whole_seconds(seconds)}.{milliseconds:03}Z"


def from_iso(text: str) -> WallTime:
    """Return the time of an ISO 8601 text, in this host's zone unless it names one.

    Raises ValueError.
    """
    moment = datetime.fromisoformat(text)
    return WallTime(round(moment.timestamp() * 1000))


def coming(text: str, now: WallTime) -> WallTime:
    """Return the next time of a day, as "23:00", or that of an ISO 8601 text: see `from_iso`.

    Raises ValueError.
    """
    hour, colon, rest = text.partition(":")
    if not (colon and hour.isdecimal() and len(hour) <= len("23")):
        return from_iso(text)
    clock = time_of_day.fromisoformat(f"{hour:0>2}:{rest}")
    today = datetime.fromtimestamp(now / 1000, clock.tzinfo)  # without a zone in the host's own
    moment = datetime.combine(today, clock)
    if moment.timestamp() * 1000 <= now:
        moment += timedelta(days=1)
    return WallTime(round(moment.timestamp() * 1000))


@lru_cache(maxsize=16)  # a busy log names each second many times
def _whole_seconds(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def boot_id() -> str:
    """Return the id of this boot: instants of different boots cannot be compared.

    Raises `OSError`, with the remedy, where /proc does not show it.
    """
    path = Path("/proc/sys/kernel/random/boot_id")
    try:
        return path.read_text("ascii").strip()
    except OSError as error:
        remedy = "mount /proc whole, without subset=pid"
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            remedy = "raise the limit of open files: ulimit -n 1024"
        raise OSError(error.errno, f"{error.strerror}; {remedy}", str(path)) from error


def reckoning() -> str:
    """Return the identity of this process's boot clock: the boot and its time namespace.

    Only instants of the same clock can be compared.
    """
    namespace = ""
    with suppress(OSError):  # Linux before 5.6 has only one
        namespace = os.readlink("/proc/self/ns/time")  # noqa: PTH115 - a name, not a path
    return f"{boot_id()} {namespace}".rstrip()


def sleep(seconds: float) -> None:
    """Sleep. For short retries of the store and for clients; other code returns a deadline."""
    time.sleep(seconds)


#: Readings of both clocks at most these seconds apart count as one moment.
_TOGETHER = 0.01
_READINGS = 10


class HostClock(Struct, frozen=True):
    """The two clocks of a host."""

    wall: Callable[[], WallTime]
    instant: Callable[[], Instant]
    reckoning: Callable[[], str]

    def both(self) -> tuple[WallTime, Instant] | None:
        """Read both clocks at one moment; None if this process was interrupted at each try.

        A process stopped between the two readings would see a step.
        """
        for _ in range(_READINGS):
            before, wall, after = self.instant(), self.wall(), self.instant()
            if after - before <= _TOGETHER:
                return wall, after
        return None


#: The clocks of this host.
HOST_CLOCK = HostClock(wall_clock, instant, reckoning)
