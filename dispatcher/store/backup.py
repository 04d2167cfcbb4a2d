"""Backs up an embedded store while others use it."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from pysqlite3 import dbapi2

from dispatcher.errors import DispatcherError, StoreUnavailable, StoreUnusable
from dispatcher.host.locks import lock_file
from dispatcher.store import migrate
from dispatcher.store.drafts import replace, reported_draft_of, written
from dispatcher.store.names import side_files
from dispatcher.store.open import is_there
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.store.sqlite_errors import BUSY, code_of, translated

#: Seconds to wait for others to close a database that is to be replaced.
PATIENCE: Final = 1.0

#: Problems of a damaged copy to report.
MOST_PROBLEMS = 3


class BackedUp(Struct, frozen=True, kw_only=True):
    """The content of a backup."""

    identity: str
    schema: int
    tasks: int
    bytes: int


def back_up(database: Path, file: Path, *, overwrite: bool, patience: float) -> BackedUp:
    """Copy a database, as of one moment, into a file; the copy is complete and checked once named.

    Reads through a connection, as `sqlite` explains. Raises `DispatcherError` if the file exists
    without `overwrite`, or is not a database that can be replaced; `StoreUnusable` if database or
    copy is damaged.
    """
    file, own = file.resolve(), database.resolve()
    if not is_there(database):
        raise StoreUnusable(f"{database} does not exist; there is nothing to back up yet")
    with written(file):
        exists = file.exists()
        if file in (own, *side_files(own)) or (exists and file.samefile(own)):
            raise DispatcherError(f"{file} is the database itself; name another file")
    if exists and not overwrite:
        raise DispatcherError(f"{file} exists; name another file, or add --overwrite")
    # The draft first, so that a full disk is reported before the file that is there.
    with reported_draft_of(file) as draft, _locked_target(file):
        with closing(SqliteEngine(database, patience=patience)) as engine:
            schema, identity = migrate.version_of(engine)
            copy(engine.connection, draft, database)
        found = BackedUp(
            identity=identity, schema=schema, tasks=count(draft), bytes=draft.stat().st_size
        )
        replace(draft, file)
    return found


@contextmanager
def _locked_target(file: Path) -> Iterator[None]:
    """Lock the file that a backup replaces: nothing, or a whole dispatcher database.

    Any other file is kept. SQLite would take parts of another database next to it for parts of the
    backup.
    """
    with ExitStack() as stack:
        if file.exists():
            lock = Path(f"{file}.lock")
            if lock.exists():
                stack.enter_context(closing(lock_file(lock, f"the database {file}")))
            try:
                lock_exclusively(stack.enter_context(connection_to(file)), file)
            except dbapi2.Error as error:
                raise DispatcherError(
                    f"{file} is not overwritten, as it is not a dispatcher database that can be"
                    f" written ({error}); remove it, or name another file"
                ) from error
        for left in side_files(file):
            if left.exists():
                raise DispatcherError(
                    f"{left} is left of another database, and SQLite would take it for a part of"
                    " the backup; remove it, or name another file"
                )
        yield


def connection_to(file: Path) -> closing[Any]:
    """Open a database for `lock_exclusively`; raises SQLite's errors."""
    return closing(
        dbapi2.connect(f"{file.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=PATIENCE)
    )


def lock_exclusively(connection: Any, file: Path) -> None:
    """Lock a database exclusively, and move its WAL into its file.

    Raises `StoreUnavailable` if another process has it open, and SQLite's errors for a file that is
    not a dispatcher database, which stays unchanged.
    """
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("SELECT count(*) FROM meta")
        connection.execute("PRAGMA journal_mode = DELETE")  # moves the WAL into the file
        connection.execute("BEGIN EXCLUSIVE")
        for left in side_files(file):
            left.unlink(missing_ok=True)
    except dbapi2.Error as error:
        if code_of(error) in BUSY:
            raise StoreUnavailable(
                f"{file} is open in another process; end that one first: fuser -v {file}"
            ) from error
        raise


def copy(source: Any, draft: Path, name: Path) -> None:
    """Copy a connection's database and check the copy; errors call the database `name`."""
    with private_connection(draft, "rw") as target:
        source.backup(target)
        # With a WAL the copy could not be read on a read-only disk.
        target.execute("PRAGMA journal_mode = DELETE")
        rows = target.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})").fetchall()
    if problems := [" ".join(row[0].split()) for row in rows if row[0] != "ok"]:
        raise StoreUnusable(
            f"{name} is damaged ({', '.join(problems)}); "
            "see `dispatcher doctor`, and keep the backups that there are"
        )


@contextmanager
def private_connection(file: Path, mode: str) -> Iterator[Any]:
    """Open a connection to a file that no one else uses."""
    try:
        with closing(
            dbapi2.connect(f"{file.as_uri()}?mode={mode}", uri=True, isolation_level=None)
        ) as connection:
            if mode == "rw":  # needs no shared memory, which some filesystems lack
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # Errors here have a code for what is wrong with the file; those of a copy have none.
            connection.execute("SELECT count(*) FROM sqlite_schema")
            yield connection
    except dbapi2.Error as error:
        if code_of(error) is None:
            raise StoreUnavailable(f"{file}: {error}; is there room on its disk?") from error
        raise translated(error, file, 0.0) from error


def count(file: Path) -> int:
    with private_connection(file, "ro") as connection:
        ((tasks,),) = connection.execute("SELECT count(*) FROM tasks").fetchall()
    return int(tasks)
