"""One line of the report: a check, its result, and the remedy."""

import enum
from collections.abc import Mapping
from itertools import islice

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


def counts(wrong: Mapping[tuple[str, str], int] | None) -> Finding:
    """Return whether the counts are right: see `ReaderStore.wrong_counts`; None: not checked."""
    if wrong is None:
        return skipped("counts", "no task was counted", "without --quick, each is")
    if not wrong:
        return ok("counts", "those of `list`, `status` and `metrics` agree with each task and run")
    some = [
        f"{abs(missing)} too {'few' if missing > 0 else 'many'} {state}"
        f" {f'tasks in {queue}' if queue else 'runs'}"
        for (queue, state), missing in islice(wrong.items(), 3)
    ]
    some += ["…"] * (len(wrong) > len(some))
    return warning("counts", f"`list` and `status` count {', '.join(some)}", "dispatcher migrate")


def from_error(check: str, error: Exception) -> Finding:
    """Return the finding of an error, whose message ends with the remedy."""
    text, _, remedy = str(error).partition("; ")
    return bad(check, text, remedy or "see docs/operations.md")
