"""Sizes as people write them, `"64MiB"`, and as numbers of bytes."""

from __future__ import annotations

import re

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)(KiB|MiB|GiB|TiB)")

#: No size is larger than this: it fits into every integer that it may meet.
LARGEST = 1 << 60


class Bytes(int):
    """A size; where sizes are compared they are whole bytes."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return it as people write it, in the largest unit that keeps it whole."""
        for unit, size in reversed(_UNITS.items()):
            if self >= size and self % size == 0:
                return f"{self // size}{unit}"
        return f"{self:d} bytes"


def parse(text: object) -> Bytes:
    """Return the size that a text names; raise ValueError with the remedy if it names none."""
    if re.fullmatch(r"-?[0-9.]+", str(text)):
        raise ValueError(f'{text} is a plain number; add its unit, e.g. "{text}MiB"')
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no size; write a number and KiB, MiB, GiB or TiB")
    size = float(found[1]) * _UNITS[found[2]]
    if size > LARGEST:
        raise ValueError(f"{text!r} is larger than {Bytes(LARGEST)}")
    return Bytes(round(size))
