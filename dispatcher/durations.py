"""Durations as people write them: "200ms", "1.5s", "15m", "2h", "30d"."""

from __future__ import annotations

import re

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")

#: No duration is longer than this, so that every time it leads to has a date.
LONGEST_DAYS = 36_500


class Milliseconds(int):
    """A duration; where durations are stored or compared they are whole milliseconds."""

    __slots__ = ()

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self / 1000

    def __str__(self) -> str:
        """Return it as people write it, in the largest unit that keeps it whole."""
        for unit, size in reversed(_UNITS.items()):
            if self >= size and self % size == 0:
                return f"{self // size}{unit}"
        return f"{self:d}ms"


def parse(text: object) -> Milliseconds:
    """Return the duration that a text names; raise ValueError with the remedy if it names none."""
    if re.fullmatch(r"-?[0-9.]+", str(text)):
        raise ValueError(f'{text} is a plain number; add its unit, e.g. "{text}s"')
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no duration; write a number and ms, s, m, h or d")
    milliseconds = float(found[1]) * _UNITS[found[2]]
    if 0 < milliseconds < 1:
        raise ValueError(f"{text!r} is shorter than a millisecond")
    if milliseconds > LONGEST_DAYS * _UNITS["d"]:
        raise ValueError(f"{text!r} is longer than {LONGEST_DAYS} days")
    return Milliseconds(round(milliseconds))
