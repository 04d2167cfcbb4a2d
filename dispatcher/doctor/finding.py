"""One line of the report: what was looked at, how it is, what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    level: Level
    said: str
    remedy: str | None = None
    """What to do; None where nothing needs to be done."""


def ok(check: str, said: str) -> Finding:
    """Return what is as it should be."""
    return Finding(check, Level.OK, said)


def warning(check: str, said: str, remedy: str) -> Finding:
    """Return what works, and may not for long or not as expected."""
    return Finding(check, Level.WARNING, said, remedy)


def bad(check: str, said: str, remedy: str) -> Finding:
    """Return what keeps the dispatcher from working."""
    return Finding(check, Level.BAD, said, remedy)


def told(check: str, error: Exception) -> Finding:
    """Return what an error says, whose messages end with the remedy."""
    said, _, remedy = str(error).partition("; ")
    return bad(check, said, remedy or "see docs/operations.md")
