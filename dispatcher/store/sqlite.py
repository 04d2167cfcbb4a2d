"""The embedded engine: one SQLite file on a local disk.

A process that has the database open must not open the file in any other way: closing a descriptor
drops all POSIX locks of the process on that file, including SQLite's.
"""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from pysqlite3 import dbapi2

from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnusable
from dispatcher.store import forks, sqlite_errors
from dispatcher.store.engine import NONE, Followed, Row, Values
from dispatcher.store.names import refuse_second_name, watched_files
from dispatcher.store.sqlite_library import check_library
from dispatcher.store.sqlite_text import DIALECT, bound, of_each_row
from dispatcher.times import instant, sleep

#: Seconds between two tries for the write lock. SQLite's own handler waits longer each time, so one
#: process starves among many short writers.
RETRY_EVERY: Final = 0.001

#: Bytes that a WAL keeps on disk after a long reader let it grow.
WAL_KEPT: Final = 64 * 1024 * 1024

_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA journal_size_limit = {WAL_KEPT}",
)


class _Refusing:
    """A cursor that raises: for statements outside of a transaction, and after an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def execute(self, *_: object) -> NoReturn:
        raise self._error


_OUTSIDE: Final = _Refusing(RuntimeError("no transaction is open"))

#: The driver's message about a text that is not UTF-8.
_UNDECODABLE = "Could not decode to UTF-8"


class SqliteEngine:
    """A connection to an existing database file, or to a database in memory (`path` None).

    `begin` waits up to `patience` seconds for other writers.
    """

    dialect = DIALECT
    followed: Followed | None = None

    def __init__(self, path: Path | None, *, patience: float) -> None:
        self._pid = os.getpid()
        check_library()
        self._path = path
        self._files = () if path is None else watched_files(path)
        self._patience = patience
        self._closed = self._disabled = self._changes_schema = False
        self._inodes: list[tuple[int, int]] = []
        self._identity: list[Row] = []
        self._connection: Any = None
        self._cursor: Any = _OUTSIDE
        self._connect()
        forks.disable_in_children(self)

    @property
    def origin(self) -> tuple[int, int]:
        return (0, 0)

    @property
    def connection(self) -> Any:
        """SQLite's connection, for what only SQLite can do."""
        return self._connection

    def __del__(self) -> None:
        self._check_fork()

    @property
    def is_inherited(self) -> bool:
        return os.getpid() != self._pid

    def disable(self) -> None:
        if not self._disabled:
            forks.leak(self._connection)
            self._connection = None
            self._disabled = True
            self._cursor = _Refusing(self._refusal())

    def _check_fork(self) -> None:
        if os.getpid() != self._pid:
            self.disable()

    def version(self) -> int | None:
        self._check_fork()
        with suppress(dbapi2.Error, DispatcherError):
            begun = self._cursor is not _OUTSIDE  # then the files were compared
            if self._connection is not None and (begun or self._inodes == self._stat()):
                return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        return None

    def begin(self, *, write: bool, schema: bool = False) -> None:
        self._check_fork()
        if self._connection is None:
            self._connect()
        elif self._inodes != self._stat():
            raise self._replaced()
        if schema:  # or a table that is replaced takes its rows in other tables with it
            self._until_free("PRAGMA foreign_keys = OFF")
            self._changes_schema = True
        self._until_free("BEGIN IMMEDIATE" if write else "BEGIN")
        self._cursor = self._connection.cursor()

    def commit(self) -> None:
        self._check_fork()
        try:
            self._cursor.execute("COMMIT")
        except dbapi2.Error as error:
            failure = self._fail(error)
            # These codes prove that nothing was committed; any other may come after the commit.
            if sqlite_errors.code_of(error) in sqlite_errors.BUSY | {sqlite_errors.FULL}:
                raise failure from error
            self._drop()
            raise CommitUnknown(f"the commit has an unknown outcome: {failure}") from error
        self._cursor = _OUTSIDE
        self._restore_foreign_keys()

    def rollback(self) -> None:
        self._check_fork()
        self._cursor = _OUTSIDE
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except dbapi2.Error:
                self._drop()
        self._restore_foreign_keys()

    def _restore_foreign_keys(self) -> None:
        """Check references again, after a change of the schema."""
        if self._changes_schema and self._connection is not None:
            self._connection.execute("PRAGMA foreign_keys = ON")
        self._changes_schema = False

    def rows(self, statement: str, values: Values = NONE) -> list[Row]:
        try:
            if (each := of_each_row(statement, values)) is not None:
                return each.rows(self._cursor, values)
            rows: list[Row] = self._cursor.execute(*bound(statement, values)).fetchall()
        except sqlite_errors.ERRORS as error:
            if _UNDECODABLE in str(error) and statement.lstrip().startswith(("SELECT", "WITH")):
                return self._rows_with_damage(*bound(statement, values))
            raise self._fail(error) from error
        return rows

    def _rows_with_damage(self, text: str, values: Values) -> list[Row]:
        """Return rows with invalid UTF-8 as backslash escapes, which no JSON decoder accepts."""
        self._connection.text_factory = partial(bytes.decode, errors="backslashreplace")
        try:
            rows: list[Row] = self._cursor.execute(text, values).fetchall()
        except sqlite_errors.ERRORS as error:
            raise self._fail(error) from error
        finally:
            self._connection.text_factory = str
        return rows

    def change(self, statement: str, values: Values = NONE) -> int:
        try:
            if (each := of_each_row(statement, values)) is not None:
                return each.change(self._cursor, values)
            return int(self._cursor.execute(*bound(statement, values)).rowcount)
        except sqlite_errors.ERRORS as error:
            raise self._fail(error) from error

    later = change

    def close(self) -> None:
        self._closed = True
        self.rollback()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> None:
        self._refuse_misuse()
        before = self._stat()[:1]
        if self._inodes and before != self._inodes[:1]:
            raise self._replaced()
        # SQLite would notice only at the first write.
        if self._path is not None and not sqlite_errors.is_writable(self._path):
            raise sqlite_errors.denied(self._path, "permission denied")
        try:
            self._connection = dbapi2.connect(
                ":memory:" if self._path is None else f"{self._path.as_uri()}?mode=rw",
                uri=self._path is not None,
                timeout=0,
                isolation_level=None,
                cached_statements=128,
            )
            for pragma in _PRAGMAS:
                self._until_free(pragma)
            self._check_identity()
            if before != self._stat()[:1]:  # a WAL would get the other file's name
                raise self._replaced()
            if self._until_free("PRAGMA journal_mode = WAL") not in (
                [("wal",)],
                [("memory",)],
            ):
                raise StoreUnusable(f"{self._path}: SQLite cannot keep a WAL here")
            # The first read creates the WAL.
            self._until_free("SELECT 1 FROM sqlite_schema LIMIT 1")
            self._inodes = self._stat()
            if before != self._inodes[:1]:
                raise self._replaced()
        except dbapi2.Error as error:
            raise self._fail(error) from error
        except DispatcherError:
            self._drop()
            raise

    def _refuse_misuse(self) -> None:
        if self._closed:
            raise RuntimeError("the store is closed")
        if self._disabled:
            raise self._refusal()
        if self._path is not None:
            refuse_second_name(self._path)

    def _check_identity(self) -> None:
        """Raise for a database without an identity, and for another store than before."""
        identity: list[Row] = []
        if self._until_free("SELECT 1 FROM sqlite_schema LIMIT 1"):
            identity = self._until_free("SELECT value FROM meta WHERE key = 'store_id'")
        # A new file may have the inode of the old one.
        if self._identity and identity != self._identity:
            raise self._replaced()
        self._identity = identity

    def _until_free(self, statement: str) -> list[Row]:
        deadline = instant() + self._patience
        while True:
            try:
                rows: list[Row] = self._connection.execute(statement).fetchall()
            except dbapi2.Error as error:
                if sqlite_errors.code_of(error) not in sqlite_errors.BUSY or instant() >= deadline:
                    raise self._fail(error) from error
            else:
                return rows
            sleep(RETRY_EVERY)

    def _drop(self) -> None:
        """Close the connection; the next transaction opens a fresh one."""
        if self._connection is not None and self._path is not None:
            with suppress(dbapi2.Error):
                self._connection.close()
            self._connection = None

    def _fail(self, error: Exception) -> DispatcherError:
        """Roll back, let further statements fail, and return the store's error."""
        if isinstance(error, dbapi2.ProgrammingError) or sqlite_errors.is_of_statement(error):
            raise error
        failure = sqlite_errors.translated(error, self._path, self._patience)
        self.rollback()
        if sqlite_errors.code_of(error) not in sqlite_errors.BUSY | sqlite_errors.REFUSED | {None}:
            self._drop()
        self._cursor = _Refusing(failure)
        return failure

    def _stat(self) -> list[tuple[int, int]]:
        """Return device and inode of each existing file. Raises what `unseen` returns."""
        found = []
        for file in self._files:
            try:
                status = os.stat(file)  # noqa: PTH116 -- three times a transaction
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # it may still be there
                raise sqlite_errors.unseen(self._path, error) from error
            found.append((status.st_dev, status.st_ino))
        return found

    def _refusal(self) -> DispatcherError:
        return forks.refusal(self._path or "the database in memory")

    def _replaced(self) -> StoreUnusable:
        return StoreUnusable(
            f"{self._path} or its -wal or -shm file was replaced or removed while in use; "
            "stop all that use it, put the files back or restore a backup, and start again"
        )
