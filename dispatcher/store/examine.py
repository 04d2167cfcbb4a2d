"""Examines a database without changing it: its schema, and whether it is damaged."""

from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Final

from msgspec import Struct

from dispatcher.calendar import Calendar
from dispatcher.errors import StoreUnavailable, StoreUnusable
from dispatcher.store import migrate, migrations, sqlite_errors
from dispatcher.store.clock import Clock
from dispatcher.store.counting import wrong_counts
from dispatcher.store.engine import transaction
from dispatcher.store.migrate import LINEAGE, lineage
from dispatcher.store.sqlite import SqliteEngine

#: Problems of a damaged database to report.
MOST_PROBLEMS = 3

#: Steps of SQLite's virtual machine in a check of one page, at most: measured with the shortest
#: tasks, of which a page has the most. With longer ones a check ends before all are counted.
STEPS_OF_A_PAGE: Final = 4_500

#: Called with the number of pages that are checked, and that of all.
Report = Callable[[int, int], object]


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
    problems: tuple[str, ...] | None
    """Damage; None: the pages were not checked."""
    wrong_counts: Mapping[tuple[str, str], int] | None
    """As `ReaderStore.wrong_counts`; None: damaged, of another schema, or not checked."""


def examine(path: Path, *, patience: float, check: Report | None = None) -> Examined:
    """Examine an existing database; with `check`, check every page, while others use it.

    `check` is called repeatedly. Reads through a connection, as `sqlite` explains. Raises
    `StoreUnavailable` and `StoreUnusable`.
    """
    with closing(SqliteEngine(path, patience=patience)) as engine:
        schema, identity = migrate.version_of(engine)
        with transaction(engine, write=False):
            stores = lineage(engine.rows(LINEAGE))
        known = len(migrations.MIGRATIONS)
        problems = None if check is None else _problems(engine, check)
        return Examined(
            schema=schema,
            known=known,
            is_newer=schema > known and migrate.is_newer(engine, known),
            identity=identity,
            lineage=stores,
            calendar=_calendar(engine) if schema == known else None,
            problems=problems,
            wrong_counts=_wrong_counts(engine) if problems == () and schema == known else None,
        )


def _calendar(engine: SqliteEngine) -> Calendar:
    clock = Clock()
    with transaction(engine, write=False):
        clock.begin(engine, write=False)
        return clock.calendar(engine)


def _wrong_counts(engine: SqliteEngine) -> Mapping[tuple[str, str], int]:
    with transaction(engine, write=False):
        return wrong_counts(engine)


def _problems(engine: SqliteEngine, report: Report) -> tuple[str, ...]:
    checked = count(1)
    try:
        with transaction(engine, write=False):
            ((pages,),) = engine.rows("PRAGMA page_count")
            engine.connection.set_progress_handler(
                lambda: report(min(next(checked), pages), pages), STEPS_OF_A_PAGE
            )
            rows = engine.rows(f"PRAGMA integrity_check({MOST_PROBLEMS})")
    except StoreUnusable as error:  # too damaged to be checked
        return (str(error).partition("; ")[0],)
    except StoreUnavailable as error:
        if sqlite_errors.is_interrupt(error.__cause__):  # the driver replaces Ctrl-C by this error
            raise KeyboardInterrupt from None
        raise
    return tuple(row[0] for row in rows if row[0] != "ok")
