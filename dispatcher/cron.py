"""When a cron line fires, by cronsim, which follows Debian's cron: the one module that imports it.

A time of day that a change to summer time leaves out fires when it is over, one that comes twice
fires the first time; a line whose minutes or hours begin with `*` follows the real time instead.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from dispatcher.schedules import CatchUp, Schedule
from dispatcher.times import WallTime

#: Milliseconds after which a time counts as missed.
LATE: Final = 60_000

#: Missed times of a schedule that `catch_up = "all"` makes up for: the last ones.
MOST_MISSED: Final = 1_000

#: Milliseconds of the first, and the shortest, part of the past that is searched for missed times.
_PART: Final = 3_600_000

_FIELDS: Final = "minute, hour, day of the month, month, day of the week"


def check(cron: str) -> None:
    """Raise ValueError, with the remedy, for a line that is none, or that never fires."""
    if len(cron.split()) != 5:
        raise ValueError(f"{cron!r} has not five fields: {_FIELDS}; write for example: 0 3 * * *")
    try:
        next(CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC)))
    except StopIteration:
        raise ValueError(f"{cron!r} fires on no day of the next 50 years; change it") from None
    except (CronSimError, AssertionError, ValueError) as error:
        raise ValueError(f"{cron!r} is no cron line: {_in_words(error)}; correct it") from None


def check_zone(name: str) -> None:
    """Raise ValueError, with the remedy, for a time zone that this host does not know."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"this host knows no time zone {name!r}; write for example Europe/Berlin or UTC, or"
            " install tzdata"
        ) from None


def _in_words(error: Exception) -> str:
    text = str(error).removeprefix("Bad ").replace("-", " ")
    return f"the {text} cannot be" if text else "a field cannot be read"


def times(schedule: Schedule, after: WallTime) -> Iterator[WallTime]:
    """Yield the times of a schedule after one, in their order. Raises ValueError: see `check`."""
    start = datetime.fromtimestamp(after / 1000, ZoneInfo(schedule.time_zone))
    last = after
    for found in CronSim(schedule.cron, start):
        moment = WallTime(round(found.timestamp() * 1000))
        if moment > last:  # the first of an hour that comes twice may be over
            yield moment
            last = moment


def first_after(schedule: Schedule, after: WallTime) -> WallTime | None:
    """Return the first time of a schedule after one; None: there is none in 50 years."""
    return next(times(schedule, after), None)


def due(schedule: Schedule, settled_at: WallTime, now: WallTime) -> list[WallTime]:
    """Return the times from then to now, in their order, that get a task.

    Those of the last minute do; of those before, which were missed, as many as `catch_up` says: one
    stands for all, and need not be made up for if another is on time.
    """
    missed_until = WallTime(max(settled_at, now - LATE))
    on_time = _between(schedule, missed_until, now)
    match schedule.catch_up:
        case CatchUp.NONE:
            return on_time
        case CatchUp.ONE:
            return on_time or _last(schedule, settled_at, missed_until, most=1)
        case CatchUp.ALL:
            return _last(schedule, settled_at, missed_until, most=MOST_MISSED) + on_time


def _between(schedule: Schedule, after: WallTime, until: WallTime) -> list[WallTime]:
    found = []
    for moment in times(schedule, after):
        if moment > until:
            break
        found.append(moment)
    return found


def _last(schedule: Schedule, after: WallTime, until: WallTime, *, most: int) -> list[WallTime]:
    """Return the last times of a part of the past, without going through all of it."""
    part = _PART
    while True:
        start = WallTime(max(after, until - part))
        found = _between(schedule, start, until)
        if len(found) >= most or start == after:
            return found[-most:]
        part *= 4
