"""Two clocks with two types that do not mix, and the boot they belong to."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NewType

#: Milliseconds since the epoch, as the store says.
StoreTime = NewType("StoreTime", int)

#: Seconds on this host's CLOCK_BOOTTIME: it never steps, and it goes on in suspend.
Instant = NewType("Instant", float)


def instant() -> Instant:
    """Return the present instant."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))


def wall_clock() -> StoreTime:
    """Return the host's wall clock: the store time of an embedded store, and of no other."""
    return StoreTime(time.time_ns() // 1_000_000)


def monotonic_us() -> int:
    """Return CLOCK_MONOTONIC in microseconds: what sd_notify(3) asks for, and nobody else."""
    return time.monotonic_ns() // 1_000


def store_time_of(moment: Instant, *, now: StoreTime, at: Instant) -> StoreTime:
    """Return the store time of a past `moment`, given that `now` and `at` name the same one."""
    return StoreTime(now - round(max(0.0, at - moment) * 1000))


def iso(moment: StoreTime) -> str:
    """Return a store time as ISO 8601 in UTC with milliseconds."""
    seconds, milliseconds = divmod(moment, 1000)
    return f"{_whole_seconds(seconds)}.{milliseconds:03}Z"


def from_iso(text: str) -> StoreTime:
    """Return the store time of an ISO 8601 date or time, of this host's zone unless it names one.

    Raises ValueError.
    """
    moment = datetime.fromisoformat(text)
    return StoreTime(round(moment.timestamp() * 1000))


@lru_cache(maxsize=16)  # a busy log names each second many times
def _whole_seconds(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def boot_id() -> str:
    """Return the id of this boot: instants of another boot mean nothing in this one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def pause(seconds: float) -> None:
    """Wait. For the store's own short retries only: everybody else returns a deadline."""
    time.sleep(seconds)
