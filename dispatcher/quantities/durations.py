"""Durations as people write them: "200ms", "1.5s", "15m", "2h30m", "30d", "1w"."""

from dispatcher.quantities import units

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

#: Also read, but not written: most people count days.
_WEEK = {"w": 7 * _UNITS["d"]}

#: What `parse` reads, as a regular expression.
FORM = units.form(_UNITS | _WEEK)

#: The longest duration: every time that it leads to has a date.
LONGEST_DAYS = 36_500


class Milliseconds(int):
    """A duration; where durations are stored or compared they are whole milliseconds."""

    __slots__ = ()

    @property
    def seconds(self) -> float:
        return self / 1000

    def __str__(self) -> str:
        """Return it as people write it, in the largest unit that keeps it whole."""
        if self == 0:
            return "0s"
        return units.written(self, _UNITS) or f"{self:d}ms"


def parse(text: object) -> Milliseconds:
    """Return the duration that a text names; raise ValueError with the remedy if it names none."""
    milliseconds = units.read(text, _UNITS | _WEEK, kind="duration", usual="s")
    if 0 < milliseconds < 1:
        raise ValueError(f"{text!r} is shorter than a millisecond")
    if milliseconds > LONGEST_DAYS * _UNITS["d"]:
        raise ValueError(f"{text!r} is longer than {LONGEST_DAYS} days")
    return Milliseconds(round(milliseconds))
