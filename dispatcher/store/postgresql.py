"""The engine of a shared store, a schema on a server: a new session follows a lost one."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnavailable
from dispatcher.store import forks, postgresql_errors
from dispatcher.store import session_text as sql
from dispatcher.store.beginning import beginning_of
from dispatcher.store.engine import NONE, Batch, Followed, Row, Values
from dispatcher.store.exchanges import Exchanges
from dispatcher.store.postgresql_text import DIALECT, Writes, translated, writes_of
from dispatcher.store.server import DatabaseServer, Session
from dispatcher.store.server_clock import Reading
from dispatcher.times import StoreTime, instant


class PostgresqlEngine:
    """A session on a server. `begin` waits up to its `patience` for others' locks."""

    dialect = DIALECT
    followed: Followed | None = None

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
        self.prove: Callable[[], object] = lambda: None  # the store is not open yet
        """Called in the first transaction of each session: raises unless it finds that store."""
        self._origin = (0, 0)
        self._lasts: bool | None = None
        """Whether the open transaction must outlive a crash; None: it has written nothing."""
        self._unreplicated = ""
        """The server's warning that the last commit was not replicated."""
        self._given_up: tuple[bytes, Sequence[object]] | None = None
        """What ends the session that was given up while it committed; None: there is none."""
        self._connect()
        forks.disable_in_children(self)

    @property
    def name(self) -> str:
        """What messages call the database."""
        return self._server.name

    @property
    def session(self) -> Session:
        """The one that it has, or a new one."""
        return self._session or self._connect()

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
        session, before = self._usable(), instant()
        try:
            self._end_given_up()
            time, timeline, *found = self._begin(write=write)
            at = instant()
            self._reading = Reading(StoreTime(time), took=at - before, at=at)
            if self._beginning.is_new(*found):
                self._begin_anew()
            if timeline is not None:
                self._follow(int(timeline, 16))
            if schema:
                session.left = sql.CHANGE_TAKES
                for text in sql.FOR_CHANGES:
                    self._exchanges.add(text)
                self._exchanges.add(sql.LOCK_SCHEMA, [f"dispatcher {self._server.schema}"])
                self._exchanges.send()
        except psycopg.Error as error:
            raise self._fail(error) from error
        except DispatcherError:
            self._drop()
            raise
        self._is_open, self._writes, self._lasts = True, write, None
        if not self._is_proved:
            self._prove()

    def _end_given_up(self) -> None:
        if self._given_up and not self._disabled:
            self._usable()
            self._exchanges.add(*self._given_up)
            # The URL may set another role than the session's, which may not end it. Who reconciles
            # waits for what it has locked.
            with suppress(psycopg.errors.InsufficientPrivilege):
                self._exchanges.send()
            self._given_up = None

    def _begin(self, *, write: bool) -> Row:
        """Return the server's time and timeline, and what shows whether all is as it was."""
        self._exchanges.add(sql.BEGIN_WRITE if write else sql.BEGIN_READ, prepare=False)
        for text in self._beginning.texts(write=write):
            self._exchanges.add(text)
        try:
            (row,) = self._exchanges.rows(self._exchanges.send())
        except psycopg.Error as error:
            found = postgresql_errors.of_begin(error, self.name, has_begun=not self._is_idle)
            if found is not None:
                raise found from error
            raise
        return row

    def _begin_anew(self) -> None:
        """Let what is found once in each session be found again."""
        self._origin, self._is_proved = (self._origin[0] + 1, self._origin[1]), False

    @property
    def _is_idle(self) -> bool:
        session = self._session
        return session is not None and session.info.transaction_status is TransactionStatus.IDLE

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
            raise postgresql_errors.of_timeline(self.name, timeline, newest)
        self._origin = number, timeline

    def _usable(self) -> Session:
        """Return a fresh session, unless there is one that is known to be sound."""
        session = self._session
        if session is not None and (not self._is_idle or session.is_lost()):
            self._drop()
        session = self._session or self._connect()
        session.left = self._server.answer
        return session

    def commit(self) -> None:
        self._refuse_outside()
        self._unreplicated, session = "", self._session
        if session is None or session.is_lost():
            raise self._fail(psycopg.OperationalError("the server ended the session"))
        end = self._beginning.end
        if self._lasts is False:
            self._exchanges.add(sql.FORGET)
        self._exchanges.add(b"COMMIT", prepare=False)
        try:
            result = self._exchanges.send()
        except psycopg.Error as error:
            failure = self._fail(error)
            if not self._writes or postgresql_errors.proves_no_commit(error):
                raise failure from error
            self._given_up = end
            self._drop()
            raise CommitUnknown(f"the commit has an unknown outcome: {failure}") from error
        self._is_open = False
        if result.command_status != b"COMMIT":
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
        self._exchanges.drop()
        if self._session is None or self._is_idle:
            return
        if self._session.info.transaction_status is not TransactionStatus.ACTIVE:
            try:
                self._exchanges.add(b"ROLLBACK", prepare=False)
                self._exchanges.send()
            except psycopg.Error:
                pass
            else:
                return
        self._drop()

    def rows(self, statement: str, values: Values = NONE) -> list[Row]:
        return self._exchanges.rows(self._execute(statement, values))

    def change(self, statement: str, values: Values = NONE) -> int:
        return self._execute(statement, values).command_tuples or 0

    def later(self, statement: str, values: Values = NONE) -> None:
        self._refuse_outside()
        text, names = translated(statement)
        if writes := writes_of(statement):
            self._lasts = self._lasts or writes is Writes.LASTING
        try:
            self._exchanges.add(text, [_plain(values[name]) for name in names])
        except postgresql_errors.ERRORS as error:
            raise self._fail(error) from error

    def _execute(self, statement: str, values: Values) -> PGresult:
        self.later(statement, values)
        try:
            return self._exchanges.send()
        except postgresql_errors.ERRORS as error:
            raise self._fail(error) from error

    def _refuse_outside(self) -> None:
        """Raise unless a transaction is open."""
        self._check_fork()
        if self._failure is not None:
            raise self._failure
        if not self._is_open:
            raise RuntimeError("no transaction is open")

    def close(self) -> None:
        self._closed, self._is_open = True, False
        self._check_fork()
        with suppress(psycopg.Error, DispatcherError):
            self._end_given_up()
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
        session.add_notice_handler(self._notice)
        self._exchanges = Exchanges(session)
        self._beginning = beginning_of(session, self._exchanges, self._server)
        self._begin_anew()
        return session

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        """Keep a warning that the commit was not replicated."""
        if postgresql_errors.shows_no_standby(notice):
            self._unreplicated = notice.message_primary or "a warning"

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


def _plain(value: object) -> object:
    return value.as_json() if isinstance(value, Batch) else value
