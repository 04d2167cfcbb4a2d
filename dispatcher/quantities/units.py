"""Quantities as people write them: a number and its unit, or several, the largest unit first."""

import re
from collections.abc import Mapping


def read(text: object, units: Mapping[str, int], *, kind: str, usual: str) -> float:
    """Return a quantity in units of 1; raise ValueError with the remedy if the text names none.

    `units` has the size of each unit, smallest first; `usual` is the unit of the example.
    """
    if re.fullmatch(r"-?[0-9.]+", str(text)):
        raise ValueError(f'{text} is a plain number; add its unit, e.g. "{text}{usual}"')
    *others, last = units
    found = re.fullmatch(form(units), text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f"{text!r} is not a {kind}; write a number and {', '.join(others)} or {last}"
        )
    sizes = reversed([*units.values()])
    return sum(
        float(number) * size
        for number, size in zip(found.groups(), sizes, strict=True)
        if number is not None
    )


def form(units: Mapping[str, int]) -> str:
    """Return the regular expression of a quantity, with a group for the number of each unit.

    It is for schemas too: ECMA 262 reads it alike.
    """
    parts = (rf"(?:([0-9]+(?:\.[0-9]+)?){unit})?" for unit in reversed([*units]))
    return f"(?=.){''.join(parts)}"


def written(amount: int, units: Mapping[str, int]) -> str | None:
    """Return a quantity in the largest unit that keeps it whole; None without one."""
    for unit, size in reversed(list(units.items())):
        if amount >= size and amount % size == 0:
            return f"{amount // size}{unit}"
    return None
