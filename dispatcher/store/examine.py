"""Examines a database without changing it: its schema, and whether it is damaged."""

from contextlib import closing
from pathlib import Path

from msgspec import Struct

from dispatcher.calendar import Calendar
from dispatcher.errors import StoreUnusable
from dispatcher.store import migrate, migrations
from dispatcher.store.clock import Clock
from dispatcher.store.engine import transaction
from dispatcher.store.migrate import LINEAGE, lineage
from dispatcher.store.sqlite import SqliteEngine

#: Problems of a damaged database to report.
MOST_PROBLEMS = 3


class Examined(Struct, frozen=True, kw_only=True):
    schema: int
    known: int
    """The schema version of this dispatcher."""
    is_newer: bool
    """Whether only newer dispatchers can work with it."""
    identity: str
    lineage: frozenset[str]
    """Its identity, and those of the stores that it replaced."""
    calendar: Calendar | None
    """Dates of the host's clock; None in a database of another schema."""
    problems: tuple[str, ...]
    """Damage; empty also without `whole`."""


def examine(path: Path, *, patience: float, whole: bool) -> Examined:
    """Examine an existing database; `whole` reads all of it, while others use it.

    Reads through a connection, as `sqlite` explains. Raises `StoreUnavailable` and `StoreUnusable`.
    """
    with closing(SqliteEngine(path, patience=patience)) as engine:
        schema, identity = migrate.version_of(engine)
        with transaction(engine, write=False):
            stores = lineage(engine.rows(LINEAGE))
        known = len(migrations.MIGRATIONS)
        return Examined(
            schema=schema,
            known=known,
            is_newer=schema > known and migrate.is_newer(engine, known),
            identity=identity,
            lineage=stores,
            calendar=_calendar(engine) if schema == known else None,
            problems=_problems(engine) if whole else (),
        )


def _calendar(engine: SqliteEngine) -> Calendar:
    clock = Clock()
    with transaction(engine, write=False):
        clock.begin(engine, write=False)
        return clock.calendar(engine)


def _problems(engine: SqliteEngine) -> tuple[str, ...]:
    try:
        with transaction(engine, write=False):
            rows = engine.rows(f"PRAGMA integrity_check({MOST_PROBLEMS})")
    except StoreUnusable as error:  # too damaged to be checked
        return (str(error).partition("; ")[0],)
    return tuple(row[0] for row in rows if row[0] != "ok")
