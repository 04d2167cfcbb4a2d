"""An embedded store copied while others work with it, and whole files put in place at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2

from dispatcher.errors import DispatcherError, StoreUnavailable, StoreUnusable
from dispatcher.store import migrate
from dispatcher.store.names import DRAFT
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.store.sqlite_errors import code_of, translated

#: Findings of a damaged copy that are told.
MOST_PROBLEMS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """What a backup holds."""

    identity: str
    schema: int
    tasks: int
    bytes: int


def back_up(database: Path, file: Path, *, overwrite: bool, patience: float) -> BackedUp:
    """Copy a database as of one moment into a file: checked, and whole from when it has its name.

    Through a connection, as `sqlite` says why. Raises `DispatcherError` when the file exists and
    is not to be overwritten, `StoreUnusable` when the database or the copy is damaged.
    """
    if not database.exists():
        raise StoreUnusable(f"{database} does not exist; there is nothing to back up yet")
    for own in (database, *(Path(f"{database.resolve()}{tail}") for tail in ("-wal", "-shm"))):
        if file.exists() and own.exists() and file.samefile(own):
            raise DispatcherError(f"{file} is the database itself; name another file")
    if file.exists() and not overwrite:
        raise DispatcherError(f"{file} exists; name another file, or add --overwrite")
    with draft_of(file) as draft:
        with closing(SqliteEngine(database, patience=patience)) as engine:
            schema, identity = migrate.version_of(engine)
            copy(engine.connection, draft, database)
        found = BackedUp(
            identity=identity, schema=schema, tasks=count(draft), bytes=draft.stat().st_size
        )
        put_in_place(draft, file)
    return found


@contextmanager
def draft_of(file: Path) -> Iterator[Path]:
    """Give an empty private file beside another; whatever is left of it goes in the end."""
    draft = file.with_name(f"{file.name}{DRAFT}{os.urandom(4).hex()}")
    draft.touch(mode=0o600, exist_ok=False)
    try:
        yield draft
    finally:
        for name in (draft, *(Path(f"{draft}{tail}") for tail in ("-wal", "-shm", "-journal"))):
            with suppress(OSError):
                name.unlink()


def copy(source: Any, draft: Path, name: Path) -> None:
    """Copy a connection's database, which has that name, and see that all of the copy is whole."""
    with opened(draft, "rw") as target:
        source.backup(target)
        # One file: without it the copy would want a WAL beside it, and a disk that can be written.
        target.execute("PRAGMA journal_mode = DELETE")
        rows = target.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})").fetchall()
    if problems := [" ".join(row[0].split()) for row in rows if row[0] != "ok"]:
        raise StoreUnusable(
            f"{name} is damaged ({', '.join(problems)}); "
            "see `dispatcher doctor`, and keep the backups that there are"
        )


@contextmanager
def opened(file: Path, mode: str) -> Iterator[Any]:
    """Give a connection that nobody shares, to a file that nobody else has open."""
    try:
        with closing(
            dbapi2.connect(f"{file.as_uri()}?mode={mode}", uri=True, isolation_level=None)
        ) as connection:
            if mode == "rw":  # shares no memory: so it works on filesystems that cannot
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # What is wrong with the file has an error of its own here; a copy's has none.
            connection.execute("SELECT count(*) FROM sqlite_schema")
            yield connection
    except dbapi2.Error as error:
        if code_of(error) is None:
            raise StoreUnavailable(f"{file}: {error}; is there room on its disk?") from error
        raise translated(error, file, 0.0) from error


def count(file: Path) -> int:
    """Return how many tasks a copy holds."""
    with opened(file, "ro") as connection:
        ((tasks,),) = connection.execute("SELECT count(*) FROM tasks").fetchall()
    return int(tasks)


def put_in_place(draft: Path, file: Path) -> None:
    """Give a draft that nobody has open its name, once it is on disk."""
    _sync(draft, os.O_RDONLY)
    draft.rename(file)
    _sync(file.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
