"""Sizes as people write them, `"64MiB"`, and as numbers of bytes."""

from dispatcher.quantities import units

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

#: What `parse` reads, as a regular expression.
FORM = units.form(_UNITS)

#: The largest size: it fits a signed integer of 64 bits.
LARGEST = 1 << 60


class Bytes(int):
    """A size; where sizes are compared they are whole bytes."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return it as people write it, in the largest unit that keeps it whole."""
        return units.written(self, _UNITS) or f"{self:d} bytes"


def parse(text: object) -> Bytes:
    """Return the size that a text names; raise ValueError with the remedy if it names none."""
    size = units.read(text, _UNITS, kind="size", usual="MiB")
    if size > LARGEST:
        raise ValueError(f"{text!r} is larger than {Bytes(LARGEST)}")
    return Bytes(round(size))
