"""The engine of a shared store: a schema in a database of a PostgreSQL server.

After a lost session the next transaction opens a fresh one.
"""

import os
import re
from functools import lru_cache
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnavailable
from dispatcher.store import forks, postgresql_errors
from dispatcher.store.engine import NONE, Dialect, Row, Values
from dispatcher.store.server import DatabaseServer, Session
from dispatcher.store.server_clock import Reading
from dispatcher.times import StoreTime, instant

# Begins a transaction and reads the server's clock in one exchange. In a snapshot this is also the
# statement whose moment it shows.
_BEGIN = """BEGIN ISOLATION LEVEL {mode};
SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)
"""
_BEGIN_WRITE: Final = _BEGIN.format(mode="READ COMMITTED READ WRITE").encode()
_BEGIN_READ: Final = _BEGIN.format(mode="REPEATABLE READ READ ONLY").encode()

#: Lets one process at a time change the tables.
_LOCK_SCHEMA: Final = b"SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"

#: A parameter; or a literal or comment, which contains none.
_PARAMETER: Final = re.compile(r"'[^']*'|--[^\n]*|(?<!:):([A-Za-z_]\w*)")

_COMMAND_AS_TEXT: Final = """(SELECT string_agg(one.value, ' ' ORDER BY one.place)
    FROM json_array_elements_text(CASE WHEN {valid} AND command LIKE '[%' THEN CAST(command AS json)
        ELSE '[]' END) WITH ORDINALITY AS one (value, place))"""

_LABELS: Final = """json_each_text(CASE WHEN {valid} AND labels LIKE '{{%' THEN CAST(labels AS json)
    ELSE '{{}}' END)"""

#: The first version that can test whether a text is JSON.
_TESTS_JSON: Final = 160_000


class PostgresqlEngine:
    """A session on a server. `begin` waits up to its `patience` for others' locks."""

    def __init__(self, server: DatabaseServer) -> None:
        self._pid = os.getpid()
        self._server = server
        self._closed = self._disabled = self._is_open = self._writes = False
        self._failure: DispatcherError | None = None
        """The error that ended the open transaction."""
        self._reading = Reading(StoreTime(0), took=0.0)
        self._session: Session | None = None
        self._connect()
        forks.disable_in_children(self)

    @property
    def dialect(self) -> Dialect:
        return self._dialect

    @property
    def name(self) -> str:
        """What messages call the database."""
        return self._server.name

    def reading(self) -> Reading:
        """Return that of the server's clock at the beginning of the transaction."""
        return self._reading

    def __del__(self) -> None:
        self._check_fork()

    @property
    def is_inherited(self) -> bool:
        return os.getpid() != self._pid

    def disable(self) -> None:
        if not self._disabled:
            forks.leak(self._session)
            self._session, self._disabled = None, True
            self._failure = forks.refusal(self.name)

    def _check_fork(self) -> None:
        if os.getpid() != self._pid:
            self.disable()

    def begin(self, *, write: bool, schema: bool = False) -> None:
        """Begin a transaction; with `schema`, one that changes tables: one process at a time."""
        self._refuse_misuse()
        self._failure = None
        self._make_usable()
        before = instant()
        try:
            self._cursor.execute(_BEGIN_WRITE if write else _BEGIN_READ, prepare=False)
            self._cursor.nextset()
            ((time,),) = self._cursor.fetchall()
            self._reading = Reading(StoreTime(time), took=instant() - before)
            if schema:
                self._cursor.execute(_LOCK_SCHEMA, [f"dispatcher {self._server.schema}"])
        except psycopg.Error as error:
            raise self._fail(error) from error
        self._is_open, self._writes = True, write

    def _make_usable(self) -> None:
        """Open a fresh session unless there is one that is known to be sound."""
        session = self._session
        if session is not None and (not _is_idle(session) or session.is_lost()):
            self._drop()
        session = self._session or self._connect()
        session.left = self._server.answer

    def commit(self) -> None:
        cursor = self._cursor_in_transaction()
        try:
            if self._session is None or self._session.is_lost():
                raise self._fail(psycopg.OperationalError("the server ended the session"))
            cursor.execute(b"COMMIT", prepare=False)
        except psycopg.Error as error:
            failure = self._fail(error)
            if not self._writes or postgresql_errors.proves_no_commit(error):
                raise failure from error
            self._drop()
            raise CommitUnknown(f"the commit has an unknown outcome: {failure}") from error
        self._is_open = False
        if cursor.statusmessage != "COMMIT":
            raise StoreUnavailable(f"{self.name} rolled the transaction back")

    def rollback(self) -> None:
        self._check_fork()
        self._is_open = False
        if self._disabled:
            return
        self._failure = None
        if self._session is None or _is_idle(self._session):
            return
        if self._session.info.transaction_status is not TransactionStatus.ACTIVE:
            try:
                self._cursor.execute(b"ROLLBACK", prepare=False)
            except psycopg.Error:
                pass
            else:
                return
        self._drop()

    def rows(self, statement: str, values: Values = NONE) -> list[Row]:
        cursor = self._execute(statement, values)
        return [] if cursor.rownumber is None else cursor.fetchall()

    def change(self, statement: str, values: Values = NONE) -> int:
        return self._execute(statement, values).rowcount

    def _execute(self, statement: str, values: Values) -> psycopg.Cursor[TupleRow]:
        cursor = self._cursor_in_transaction()
        text, names = translated(statement)
        try:
            return cursor.execute(text, [values[name] for name in names] or None)
        except postgresql_errors.ERRORS as error:
            raise self._fail(error) from error

    def _cursor_in_transaction(self) -> psycopg.Cursor[TupleRow]:
        self._check_fork()
        if self._failure is not None:
            raise self._failure
        if not self._is_open:
            raise RuntimeError("no transaction is open")
        return self._cursor

    def close(self) -> None:
        self._closed, self._is_open = True, False
        self._check_fork()
        self._drop()

    def _refuse_misuse(self) -> None:
        self._check_fork()
        if self._closed:
            raise RuntimeError("the store is closed")
        if self._disabled:
            raise forks.refusal(self.name)
        if self._is_open:
            raise RuntimeError("a transaction is open")

    def _connect(self) -> Session:
        self._session = session = self._server.connect()
        self._cursor = session.cursor()
        self._dialect = _dialect(session.info.server_version)
        return session

    def _drop(self) -> None:
        """Close the session; the next transaction opens a fresh one."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _fail(self, error: Exception) -> DispatcherError:
        """Roll back, let further statements fail, and return the store's error."""
        failure = self._server.translated(error)
        is_open = self._is_open
        if postgresql_errors.ends_session(error):
            self._drop()
        self.rollback()
        self._is_open, self._failure = is_open, failure
        return failure


def _is_idle(session: Session) -> bool:
    return session.info.transaction_status is TransactionStatus.IDLE


@lru_cache(maxsize=512)
def translated(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a statement with PostgreSQL's numbered parameters, and their names in that order."""
    numbers: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        name = found[1]
        return found[0] if name is None else numbers.setdefault(name, f"${len(numbers) + 1}")

    return _PARAMETER.sub(number, statement).encode(), tuple(numbers)


@lru_cache
def _dialect(version: int) -> Dialect:
    def valid(column: str) -> str:
        return f"pg_input_is_valid({column}, 'json')" if version >= _TESTS_JSON else "TRUE"

    text = _COMMAND_AS_TEXT.format(valid=valid("command"))
    return Dialect(
        row_id="BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        shared=True,
        each_label=_LABELS.format(valid=valid("labels")),
        text_in_command=f"position(nullif(:text, '') IN {text}) > 0",
    )
