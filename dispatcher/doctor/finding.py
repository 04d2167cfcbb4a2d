"""One line of the report: a check, its result, and the remedy."""

import enum

from msgspec import Struct


class Level(enum.StrEnum):
    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    BAD = "bad"


class Finding(Struct, frozen=True):
    check: str
    level: Level
    text: str
    remedy: str | None = None
    """What to do; None if nothing."""


def ok(check: str, text: str) -> Finding:
    """Return a finding without a fault."""
    return Finding(check, Level.OK, text)


def skipped(check: str, text: str, remedy: str) -> Finding:
    """Return a check that was left out because the user asked for it."""
    return Finding(check, Level.SKIPPED, text, remedy)


def warning(check: str, text: str, remedy: str) -> Finding:
    """Return a fault that may stop work later, or that makes work unexpected."""
    return Finding(check, Level.WARNING, text, remedy)


def bad(check: str, text: str, remedy: str) -> Finding:
    """Return a fault that keeps the dispatcher from working."""
    return Finding(check, Level.BAD, text, remedy)


def from_error(check: str, error: Exception) -> Finding:
    """Return the finding of an error, whose message ends with the remedy."""
    text, _, remedy = str(error).partition("; ")
    return bad(check, text, remedy or "see docs/operations.md")
