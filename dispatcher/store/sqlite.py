"""The embedded engine: one SQLite file on a local disk.

While a process has the database open, nothing in it may open the file by other means: closing any
descriptor of a file drops all POSIX locks that the process has on it, SQLite's among them.
"""

# ruff: noqa: D102 -- the methods' contracts are the Protocol's.

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from pysqlite3 import dbapi2

from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnusable
from dispatcher.store import forks
from dispatcher.store.engine import NONE, Dialect, Row, Values
from dispatcher.store.names import refuse_second_name
from dispatcher.store.sqlite_errors import (
    BUSY,
    ERRORS,
    FULL,
    REFUSED,
    code_of,
    denied,
    is_writable,
    translated,
    unseen,
)
from dispatcher.times import instant, pause

#: The first SQLite without the bug that corrupts a database when its WAL is reset.
OLDEST_LIBRARY: Final = (3, 51, 3)

#: Seconds between two tries for the write lock. SQLite's own handler waits ever longer, and
#: starves a process among many short writers.
RETRY_EVERY: Final = 0.001

#: Bytes of WAL that stay on disk once a long reader has let it grow.
WAL_KEPT: Final = 64 * 1024 * 1024

_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA journal_size_limit = {WAL_KEPT}",
)


def library_version() -> tuple[int, ...]:
    """Return the version of the SQLite library."""
    version: tuple[int, ...] = dbapi2.sqlite_version_info
    return version


def check_library(version: tuple[int, ...] = dbapi2.sqlite_version_info) -> None:
    """Raise `StoreUnusable` when the SQLite library is older than what is safe."""
    if version < OLDEST_LIBRARY:
        raise StoreUnusable(
            f"SQLite {'.'.join(map(str, version))} can corrupt a database in WAL mode; "
            "run: pip install 'pysqlite3>=0.6.1'"
        )


class _Refusing:
    """Stands in for the cursor where no statement may run: outside, and after an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def execute(self, *_: object) -> NoReturn:
        raise self._error

    executemany = execute


_OUTSIDE: Final = _Refusing(RuntimeError("no transaction is open"))

#: What the driver says of a text that somebody else wrote, and that is no UTF-8.
_UNDECODABLE = "Could not decode to UTF-8"


class SqliteEngine:
    """A connection to an existing database file, or to a database in memory (`path` None).

    `patience` is how long, in seconds, `begin` waits for other writers.
    """

    dialect = Dialect(
        row_id="INTEGER PRIMARY KEY AUTOINCREMENT",
        lock_row="",
        skip_locked="",
        shared=False,
        each_label="json_each(CASE WHEN json_valid(labels) THEN labels ELSE '{}' END)",
    )

    def __init__(
        self,
        path: Path | None,
        *,
        patience: float,
    ) -> None:
        self._pid = os.getpid()
        check_library()
        self._path = path
        self._files = () if path is None else _files(path)
        self._patience = patience
        self._closed = self._forsaken = False
        self._inodes: list[tuple[int, int]] = []
        self._identity: list[Row] = []
        self._connection: Any = None
        self._cursor: Any = _OUTSIDE
        self._connect()
        forks.forsake_in_children(self)

    @property
    def connection(self) -> Any:
        """SQLite's own, for what only SQLite can do."""
        return self._connection

    def __del__(self) -> None:
        self._mind_forks()

    @property
    def is_inherited(self) -> bool:
        return os.getpid() != self._pid

    def forsake(self) -> None:
        if not self._forsaken:
            forks.keep_for_ever(self._connection)
            self._connection = None
            self._forsaken = True
            self._cursor = _Refusing(self._refusal())

    def _mind_forks(self) -> None:
        if os.getpid() != self._pid:
            self.forsake()

    def begin(self, *, write: bool) -> None:
        self._mind_forks()
        if self._connection is None:
            self._connect()
        elif self._inodes != self._stat():
            raise self._replaced()
        self._patiently("BEGIN IMMEDIATE" if write else "BEGIN")
        self._cursor = self._connection.cursor()

    def commit(self) -> None:
        self._mind_forks()
        try:
            self._cursor.execute("COMMIT")
        except dbapi2.Error as error:
            failure = self._fail(error)
            # These two say that the commit's mark was not written; the others may come after it.
            if code_of(error) in BUSY | {FULL}:
                raise failure from error
            self._drop()
            raise CommitUnknown(f"the commit got no clear answer: {failure}") from error
        self._cursor = _OUTSIDE

    def rollback(self) -> None:
        self._mind_forks()
        self._cursor = _OUTSIDE
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except dbapi2.Error:
                self._drop()

    def rows(self, statement: str, values: Values = NONE) -> list[Row]:
        try:
            rows: list[Row] = self._cursor.execute(statement, values).fetchall()
        except ERRORS as error:
            if _UNDECODABLE in str(error) and statement.lstrip().startswith(("SELECT", "WITH")):
                return self._rows_with_damage(statement, values)
            raise self._fail(error) from error
        return rows

    def _rows_with_damage(self, statement: str, values: Values) -> list[Row]:
        """Return rows of which a text is no UTF-8: its bytes are spelt out, which no JSON takes."""
        self._connection.text_factory = partial(bytes.decode, errors="backslashreplace")
        try:
            rows: list[Row] = self._cursor.execute(statement, values).fetchall()
        except ERRORS as error:
            raise self._fail(error) from error
        finally:
            self._connection.text_factory = str
        return rows

    def change(self, statement: str, values: Values = NONE) -> int:
        try:
            changed: int = self._cursor.execute(statement, values).rowcount
        except ERRORS as error:
            raise self._fail(error) from error
        return changed

    def change_each(self, statement: str, many: Iterable[Values]) -> None:
        try:
            self._cursor.executemany(statement, many)
        except ERRORS as error:
            raise self._fail(error) from error

    def insert(self, statement: str, values: Values) -> int:
        try:
            row_id: int = self._cursor.execute(statement, values).lastrowid
        except ERRORS as error:
            raise self._fail(error) from error
        return row_id

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
        # SQLite itself would notice at the first write.
        if self._path is not None and not is_writable(self._path):
            raise denied(self._path, "permission denied")
        try:
            self._connection = dbapi2.connect(
                ":memory:" if self._path is None else f"{self._path.as_uri()}?mode=rw",
                uri=self._path is not None,
                timeout=0,
                isolation_level=None,
                cached_statements=128,
            )
            for pragma in _PRAGMAS:
                self._patiently(pragma)
            self._recognise()
            if before != self._stat()[:1]:  # a WAL would get the name of the other one's
                raise self._replaced()
            if self._patiently("PRAGMA journal_mode = WAL") not in ([("wal",)], [("memory",)]):
                raise StoreUnusable(f"{self._path}: SQLite cannot keep a WAL here")
            # From the first read on the WAL is there.
            self._patiently("SELECT 1 FROM sqlite_schema LIMIT 1")
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
        if self._forsaken:
            raise self._refusal()
        if self._path is not None:
            refuse_second_name(self._path)

    def _recognise(self) -> None:
        """Refuse a database without an identity, and after the first time another store's."""
        identity: list[Row] = []
        if self._patiently("SELECT 1 FROM sqlite_schema LIMIT 1"):
            identity = self._patiently("SELECT value FROM meta WHERE key = 'store_id'")
        # Another file may have got the inode of the one that was there.
        if self._identity and identity != self._identity:
            raise self._replaced()
        self._identity = identity

    def _patiently(self, statement: str) -> list[Row]:
        deadline = instant() + self._patience
        while True:
            try:
                rows: list[Row] = self._connection.execute(statement).fetchall()
            except dbapi2.Error as error:
                if code_of(error) not in BUSY or instant() >= deadline:
                    raise self._fail(error) from error
            else:
                return rows
            pause(RETRY_EVERY)

    def _drop(self) -> None:
        """Part with the connection: the next transaction makes a fresh one."""
        if self._connection is not None and self._path is not None:
            with suppress(dbapi2.Error):
                self._connection.close()
            self._connection = None

    def _fail(self, error: Exception) -> DispatcherError:
        """Roll back, see that nothing more is written in this transaction, and say what it was."""
        if isinstance(error, dbapi2.ProgrammingError):
            raise error
        failure = translated(error, self._path, self._patience)
        self.rollback()
        if code_of(error) not in BUSY | REFUSED | {None}:
            self._drop()
        self._cursor = _Refusing(failure)
        return failure

    def _stat(self) -> list[tuple[int, int]]:
        """Return what identifies the files at their paths; of a missing file nothing.

        Raises what `unseen` makes of what cannot be looked at.
        """
        found = []
        for file in self._files:
            try:
                status = os.stat(file)  # noqa: PTH116 -- in each transaction, three times
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # nothing is known of it, so also not that it is gone
                raise unseen(self._path, error) from error
            found.append((status.st_dev, status.st_ino))
        return found

    def _refusal(self) -> DispatcherError:
        return forks.refusal(self._path or "the database in memory")

    def _replaced(self) -> StoreUnusable:
        return StoreUnusable(
            f"{self._path} or its -wal or -shm file was replaced or removed while in use; "
            "stop all that use it, put the files back or restore a backup, and start again"
        )


def _files(path: Path) -> tuple[str, ...]:
    real = path.resolve()
    return str(path), f"{real}-wal", f"{real}-shm"
