"""Many rows in one statement: the table `given`, whose parameter `:given` is a batch of rows.

An UPDATE or INSERT names its columns `given.column`, so that an engine may bind each row. The
table is then the only one, or the last after a comma.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from dispatcher.execution import LONGEST
from dispatcher.store.engine import Batch

#: Types of columns that are not texts.
_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("id", "task_id", "place", "pid", "exit_code", "signal"), "BIGINT"),
    **dict.fromkeys(
        ("low_id", "high_id", "attempt", "fence", "attempts_used", "deferrals", "orphans"), "BIGINT"
    ),
    **dict.fromkeys(("priority", "rank", "max_attempts", "umask", "environment_id"), "BIGINT"),
    **dict.fromkeys(("max_deferrals", "max_orphans", "kill_signal", "checksum"), "BIGINT"),
    **dict.fromkeys(("max_rss_bytes", "output_truncated", "parent_id", "blockers"), "BIGINT"),
    "many": "BIGINT",
    **dict.fromkeys(("cpu_seconds", "progress"), "DOUBLE PRECISION"),
    **dict.fromkeys(("notify", "key_due", "total_anew", "by_worker", "any_outcome"), "BOOLEAN"),
}

#: Whether a run that is named by its uid is open. The planner does not take it for the condition of
#: an index of open runs, which it would read as a whole if it expects hardly any.
NAMED_IS_OPEN: Final = "COALESCE(runs.outcome, '') = ''"


def bounded(duration: str) -> str:
    """Return a stored duration, an SQL expression; one that is too long counts as the longest.

    It was written by hand, and a server refuses a sum beyond 64 bits for all rows of a statement.
    """
    return f"CASE WHEN {duration} > {LONGEST:d} THEN {LONGEST:d} ELSE {duration} END"


def given(*columns: str) -> str:
    """Return the table `given` with these columns; a key that a row lacks is NULL.

    Names that end in `_at` or `_ms` are times and durations.
    """
    definitions = ", ".join(f"{name} {_type_of(name)}" for name in columns)
    return f"json_to_recordset(CAST(:given AS json)) AS given({definitions})"


def rows_of(rows: Iterable[Mapping[str, object]]) -> Batch:
    """Return the parameter `:given`."""
    return Batch(tuple(rows))


def _type_of(column: str) -> str:
    return _TYPES.get(column, "BIGINT" if column.endswith(("_at", "_ms")) else "TEXT")
