"""The columns that each value of the model is read from, derived from its dataclass."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from dispatcher.execution import Limits


@cache
def names(kind: Any) -> tuple[str, ...]:
    """Return a value's fields, in order; in the place of `limits` those of `Limits`."""
    own = (field.name for field in fields(kind))
    return tuple(name for one in own for name in (names(Limits) if one == "limits" else (one,)))


def columns(kind: Any, **expressions: str) -> str:
    """Return the list that a SELECT reads a value from: by default a column named as the field."""
    return ", ".join(expressions.get(name, name) for name in names(kind))
