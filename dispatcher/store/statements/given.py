"""Many rows in one statement: the table `given`, whose parameter `:given` is a JSON array."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from dispatcher.complaints import in_words
from dispatcher.errors import StoreRefused

#: Types of columns that are not texts.
_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("id", "task_id", "place", "pid", "exit_code", "signal"), "BIGINT"),
    **dict.fromkeys(("attempt", "fence", "attempts_used", "deferrals", "orphans"), "BIGINT"),
    **dict.fromkeys(("priority", "max_attempts", "umask", "environment_id"), "BIGINT"),
    **dict.fromkeys(("max_deferrals", "max_orphans", "kill_signal", "checksum"), "BIGINT"),
    **dict.fromkeys(("max_rss_bytes", "output_truncated"), "BIGINT"),
    **dict.fromkeys(("cpu_seconds", "progress"), "DOUBLE PRECISION"),
    **dict.fromkeys(("notify", "total_anew"), "BOOLEAN"),
}


#: The first integer that no column holds: SQLite would store it as a fraction.
_BEYOND: Final = 2**63


def given(*columns: str) -> str:
    """Return the table `given` with these columns; a key that a row lacks is NULL.

    Names that end in `_at` or `_ms` are times and durations.
    """
    definitions = ", ".join(f"{name} {_type_of(name)}" for name in columns)
    return f"json_to_recordset(CAST(:given AS json)) AS given({definitions})"


def rows_of(rows: Iterable[Mapping[str, object]]) -> str:
    """Return the parameter `:given`. Raises `StoreRefused` for what no row can hold."""
    rows = list(rows)
    for row in rows:
        for name, value in row.items():
            if value is None or isinstance(value, str | float):
                continue
            if not isinstance(value, int) or not -_BEYOND <= value < _BEYOND:
                raise StoreRefused(f"{name}: no column holds {value!r}")
    try:
        return msgspec.json.encode(rows, enc_hook=_plain).decode()
    except UnicodeEncodeError as error:
        raise StoreRefused(f"a text {in_words(error)}") from error


def _plain(value: object) -> object:
    """Return a number or text without its own type."""
    return int(value) if isinstance(value, int) else str.__str__(value)


def _type_of(column: str) -> str:
    return _TYPES.get(column, "BIGINT" if column.endswith(("_at", "_ms")) else "TEXT")
