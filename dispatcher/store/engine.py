"""What one database must offer so that the store's one SQL text runs on it.

Statements carry ``:name`` parameters. What they use beyond plain SQL every engine has: RETURNING,
ON CONFLICT, partial indexes, recursive WITH. The rest of the differences is a `Dialect`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

Values = Mapping[str, object]
Row = tuple[Any, ...]

#: The parameters of a statement that has none.
NONE: Values = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The few words in which databases differ."""

    row_id: str
    """Definition of an integer primary key that is never given twice."""
    lock_row: str
    """What a SELECT ends with that goes on to change the row it found."""
    skip_locked: str
    """The same, passing over the rows that others have locked."""
    shared: bool
    """Whether nodes on other hosts may work with it."""
    each_label: str
    """The JSON object `labels` as a table with the columns `key` and `value`."""


class Engine(Protocol):
    """One connection to one database, remade when it went bad.

    Statements run between `begin` and `commit` or `rollback`. Any method raises `StoreUnavailable`,
    `StoreUnusable` or `StoreRefused`; after an error a transaction can only be rolled back, and
    says the same error again to whoever goes on.
    """

    @property
    def dialect(self) -> Dialect:
        """The words of this database."""

    def begin(self, *, write: bool) -> None:
        """Begin a transaction."""

    def commit(self) -> None:
        """Commit. Raises `CommitUnknown` when that got no clear answer."""

    def rollback(self) -> None:
        """Undo what the transaction did. Never raises."""

    def rows(self, statement: str, values: Values = NONE) -> list[Row]:
        """Execute a statement and return its rows."""

    def change(self, statement: str, values: Values = NONE) -> int:
        """Execute a statement and return how many rows it changed."""

    def change_each(self, statement: str, many: Iterable[Values]) -> None:
        """Execute a statement once for each of many values."""

    def insert(self, statement: str, values: Values) -> int:
        """Insert one row and return its id."""

    def close(self) -> None:
        """Close the connection. Idempotent."""


@contextmanager
def transaction(engine: Engine, *, write: bool) -> Iterator[None]:
    """Commit what happens inside, or roll all of it back on any exception."""
    engine.begin(write=write)
    try:
        yield
        engine.commit()
    except BaseException:  # Ctrl-C before the commit too: nothing is open afterwards
        engine.rollback()
        raise
