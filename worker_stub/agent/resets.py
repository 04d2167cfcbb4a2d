"""When a provider's limit ends, from the text of an error."""

import re
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

#: Seconds: a reset that is farther away was misread.
MOST = 32 * 86_400

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_UNIT = r"(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
_ONE = re.compile(rf"(\d+(?:\.\d+)?)\s*({_UNIT})", re.IGNORECASE)
_AFTER = re.compile(
    rf"\b(?:in|after)\s+((?:\d+(?:\.\d+)?\s*{_UNIT}[\s,]*(?:and\s+)?)+)", re.IGNORECASE
)
_EPOCH = re.compile(r"\|(\d{10})\b")
_DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?\s?(?:Z|[+-]\d\d:?\d\d)")
_CLOCK = re.compile(
    rf"""\b(?:at|resets?|until)\s+(?:(?:at|on)\s+)?
    (?:(?P<month>{"|".join(_MONTHS)})[a-z]*\.?\s+(?P<day>\d\d?)(?:st|nd|rd|th)?,?\s+
       (?:(?P<year>\d{{4}}),?\s+)?(?:at\s+)?)?
    (?P<hour>\d\d?)(?::(?P<minute>\d\d))?\s*(?P<half>[ap]m)?\b
    (?:\s*\((?P<zone>[A-Za-z0-9_/+-]+)\))?""",
    re.IGNORECASE | re.VERBOSE,
)


def reset_time(told: str, now: float) -> float | None:
    """Return the time, in seconds since 1970, at which a text says that a limit ends.

    A time without a zone is one of this process's zone. None: the text tells no time to come.
    """
    for find in (_epoch, _date, _after, _clock):
        try:
            found = find(told, now)
        except (ValueError, OverflowError, OSError):
            continue
        if found is not None and now < found <= now + MOST:
            return found
    return None


def _epoch(told: str, _: float) -> float | None:
    return float(found[1]) if (found := _EPOCH.search(told)) else None


def _date(told: str, _: float) -> float | None:
    return datetime.fromisoformat(found[0]).timestamp() if (found := _DATE.search(told)) else None


def _after(told: str, now: float) -> float | None:
    if (found := _AFTER.search(told)) is None:
        return None
    return now + sum(float(many) * _unit(unit.lower()) for many, unit in _ONE.findall(found[1]))


def _unit(name: str) -> float:
    return _SECONDS["ms" if name.startswith(("ms", "milli")) else name[0]]


def _clock(told: str, now: float) -> float | None:
    found = next((one for one in _CLOCK.finditer(told) if one["half"] or one["minute"]), None)
    if found is None:
        return None
    zone = _zone(found["zone"])
    here = datetime.fromtimestamp(now, zone)
    at = here.replace(
        hour=_hour(int(found["hour"]), found["half"]),
        minute=int(found["minute"] or 0),
        second=0,
        microsecond=0,
    )
    if found["month"] is None:
        return (at if at.timestamp() > now else at + timedelta(days=1)).timestamp()
    month = _MONTHS.index(found["month"].lower()) + 1
    year = int(found["year"] or here.year)
    at = at.replace(year=year, month=month, day=int(found["day"]))
    if found["year"] is None and at.timestamp() <= now:
        at = at.replace(year=year + 1)
    return at.timestamp()


def _hour(hour: int, half: str | None) -> int:
    if half is None:
        return hour
    return hour % 12 + (12 if half.lower() == "pm" else 0)


def _zone(name: str | None) -> tzinfo | None:
    """Return a zone by its name; None, this process's own: the text names none that exists."""
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return None
