"""The engine of a shared store: a schema in a database of a PostgreSQL server.

After a lost session the next transaction opens a fresh one.
"""

import os
from collections.abc import Callable
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnavailable
from dispatcher.store import forks, postgresql_errors
from dispatcher.store.engine import NONE, Batch, Row, Values
from dispatcher.store.postgresql_text import DIALECT, Writes, translated, writes_of
from dispatcher.store.server import DatabaseServer, Session
from dispatcher.store.server_clock import Reading
from dispatcher.times import StoreTime, instant

# Begins a transaction, and reads the server's clock and timeline in one exchange. In a snapshot
# this is also the statement whose moment it shows. A standby has no timeline to read.
_BEGIN = """BEGIN ISOLATION LEVEL {mode};
SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT), {timeline}
"""
_TIMELINE: Final = "left(pg_walfile_name(pg_current_wal_lsn()), 8)"
_BEGIN_WRITE: Final = _BEGIN.format(mode="READ COMMITTED READ WRITE", timeline=_TIMELINE).encode()
_BEGIN_READ: Final = _BEGIN.format(mode="REPEATABLE READ READ ONLY", timeline="NULL").encode()

_COMMIT: Final = b"COMMIT"

#: Waits neither for the disk nor for a standby.
_COMMIT_FORGETTABLE: Final = b"SET LOCAL synchronous_commit = off; COMMIT"

#: Warnings after which a COMMIT is done here, and perhaps nowhere else: somebody ended the wait for
#: a synchronous standby.
_NOT_REPLICATED: Final = "01000"

# No time-out of the server ends that wait, nor does it notice that the session was given up.
_END_WAIT: Final = b"""
SELECT pg_cancel_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND wait_event = 'SyncRep' AND application_name = current_setting('application_name')
"""

#: Lets one process at a time change the tables.
_LOCK_SCHEMA: Final = b"SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"

#: Seconds that a change of tables waits for a lock while others wait behind it, and that it may
#: take in all.
_CHANGE_LOCKS: Final = 2
_CHANGE_TAKES: Final = 3600
_FOR_CHANGES: Final = (
    f"SET LOCAL lock_timeout = '{_CHANGE_LOCKS}s'; SET LOCAL statement_timeout = 0;"
    " SET LOCAL idle_in_transaction_session_timeout = 0"
).encode()


class PostgresqlEngine:
    """A session on a server. `begin` waits up to its `patience` for others' locks."""

    dialect = DIALECT

    def __init__(self, server: DatabaseServer) -> None:
        self._pid = os.getpid()
        self._server = server
        self._closed = self._disabled = self._is_open = self._writes = False
        self._failure: DispatcherError | None = None
        """The error that ended the open transaction."""
        self._reading = Reading(StoreTime(0), took=0.0, at=instant())
        self._session: Session | None = None
        self._is_proved = False
        """Whether the session works with the store that the engine began with."""
        self.prove: Callable[[], object] = _unproved
        """Called in the first transaction of each session: raises unless it finds that store."""
        self._origin = (0, 0)
        self._lasts: bool | None = None
        """Whether the open transaction must outlive a crash; None: it has written nothing."""
        self._unreplicated = ""
        """The server's warning that the last commit was not replicated."""
        self._given_up = 0
        """The server's process of a session that was given up while it committed; 0: none."""
        self._connect()
        forks.disable_in_children(self)

    @property
    def name(self) -> str:
        """What messages call the database."""
        return self._server.name

    @property
    def origin(self) -> tuple[int, int]:
        return self._origin

    def version(self) -> int:
        return 0

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
            if self._given_up:
                self._cursor.execute(_END_WAIT, [self._given_up], prepare=False)
                self._given_up = 0
            self._cursor.execute(_BEGIN_WRITE if write else _BEGIN_READ, prepare=False)
            self._cursor.nextset()
            ((time, timeline),) = self._cursor.fetchall()
            at = instant()
            self._reading = Reading(StoreTime(time), took=at - before, at=at)
            if timeline is not None:
                self._follow(int(timeline, 16))
            if schema:
                self._session_left(_CHANGE_TAKES)
                self._cursor.execute(_FOR_CHANGES, prepare=False)
                self._cursor.execute(_LOCK_SCHEMA, [f"dispatcher {self._server.schema}"])
        except psycopg.Error as error:
            raise self._fail(error) from error
        self._is_open, self._writes, self._lasts = True, write, None
        if not self._is_proved:
            self._prove()

    def _session_left(self, seconds: float) -> None:
        assert self._session is not None
        self._session.left = seconds

    def _prove(self) -> None:
        try:
            self.prove()
        except BaseException:
            self.rollback()
            raise
        self._is_proved = True

    def _follow(self, timeline: int) -> None:
        """Refuse a server that lacks what this process has seen: a primary before its failover."""
        number, newest = self._origin
        if timeline < newest:
            self._drop()
            raise StoreUnavailable(
                f"{self.name} is on timeline {timeline}, and this process has worked on"
                f" {newest}: a replica took over from this server, which may still run; let"
                " store.url lead to the primary, or restart this process if this is meant"
            )
        self._origin = number, timeline

    def _make_usable(self) -> None:
        """Open a fresh session unless there is one that is known to be sound."""
        session = self._session
        if session is not None and (not _is_idle(session) or session.is_lost()):
            self._drop()
        session = self._session or self._connect()
        session.left = self._server.answer

    def commit(self) -> None:
        cursor = self._cursor_in_transaction()
        self._unreplicated, pid = "", cursor.connection.info.backend_pid
        try:
            if self._session is None or self._session.is_lost():
                raise self._fail(psycopg.OperationalError("the server ended the session"))
            text = _COMMIT_FORGETTABLE if self._lasts is False else _COMMIT
            cursor.execute(text, prepare=False)
            while cursor.nextset():
                pass
        except psycopg.Error as error:
            failure = self._fail(error)
            if not self._writes or postgresql_errors.proves_no_commit(error):
                raise failure from error
            self._given_up = pid
            self._drop()
            raise CommitUnknown(f"the commit has an unknown outcome: {failure}") from error
        self._is_open = False
        if cursor.statusmessage != "COMMIT":
            raise StoreUnavailable(f"{self.name} rolled the transaction back")
        if self._unreplicated:
            raise CommitUnknown(
                f"{self.name} committed, but no synchronous standby confirmed it in time, so a"
                f" failover may forget it ({self._unreplicated}); is a standby up?"
            )

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
        if writes := writes_of(statement):
            self._lasts = self._lasts or writes is Writes.LASTING
        try:
            return cursor.execute(text, [_plain(values[name]) for name in names] or None)
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
        self._session, self._is_proved = (session := self._server.connect()), False
        session.add_notice_handler(self._notice)
        self._cursor = session.cursor()
        self._origin = (self._origin[0] + 1, self._origin[1])
        return session

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        """Keep a warning that the commit was not replicated."""
        if notice.sqlstate == _NOT_REPLICATED:
            self._unreplicated = notice.message_primary or notice.sqlstate

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


def _unproved() -> None:
    """Prove nothing: the store is not open yet."""


def _plain(value: object) -> object:
    return value.as_json() if isinstance(value, Batch) else value


def _is_idle(session: Session) -> bool:
    return session.info.transaction_status is TransactionStatus.IDLE
