"""Sessions on a PostgreSQL server, in which every wait ends."""

import os
import select
import socket
from collections.abc import Mapping
from typing import Final, Self

import psycopg
from msgspec import Struct
from psycopg.abc import RV, ConnParam, PQGen
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg.types.numeric import Int8Dumper

from dispatcher.errors import ConfigError, DispatcherError, StoreUnusable
from dispatcher.store import postgresql_errors
from dispatcher.store.schema import NO_NAME, is_name
from dispatcher.times import instant

#: The oldest version that is supported, as libpq counts versions.
OLDEST: Final = 140_000

#: Seconds beyond the patience with others after which the server ends a statement, or the wait of
#: a COMMIT for others that ring, and after which a session gives up waiting for an answer. libpq
#: waits as long for a connection at least.
STATEMENT: Final = 1.0
ANSWER: Final = 2.0

# With `off` a crash of the server forgets commits that were acknowledged, and nothing shows it.
# Otherwise it stays as the server has it, also when that is changed later.
_DURABLE: Final = """CASE WHEN current_setting('synchronous_commit') = 'off'
    THEN set_config('synchronous_commit', 'local', {is_local}) END"""

#: Seconds between two looks for Ctrl-C while a session waits.
_LOOK_EVERY: Final = 0.1

#: Parameters of libpq that may be lists with an item for each host.
_OF_HOSTS: Final = ("host", "hostaddr", "port")

#: Parameters of libpq that appear in messages. The others may hold secrets.
_NAMED: Final = ("service", "host", "hostaddr", "port", "dbname")

# All numbers are BIGINT, so that a statement has the same types whatever the numbers are.
_ADAPTERS: Final = AdaptersMap(psycopg.adapters)
_ADAPTERS.register_dumper(int, Int8Dumper)


class Session(psycopg.Connection[TupleRow]):
    """A connection that waits at most `left` seconds more for the server, in all."""

    left: float = 0.0
    is_pooled: bool = False
    """Whether a pooler is in between: each transaction may be in another session of the server."""

    def wait(
        self, gen: PQGen[RV], interval: float = _LOOK_EVERY, timeout: float | None = None
    ) -> RV:
        began = instant()
        left = max(0.0, self.left)
        try:
            return super().wait(gen, interval, left if timeout is None else min(left, timeout))
        except psycopg.OperationalError as error:
            if instant() - began < left:
                raise
            raise psycopg.OperationalError("the server did not answer in time") from error
        finally:
            self.left -= instant() - began

    def is_lost(self) -> bool:
        """Return whether the session is known to be over, without waiting."""
        poll = select.poll()
        try:
            poll.register(self.pgconn.socket, select.POLLIN)
            while poll.poll(0):
                self.pgconn.consume_input()
        except psycopg.OperationalError:
            return True
        return self.closed


class DatabaseServer(Struct, frozen=True, kw_only=True):
    """A schema of a database on a server, and how long a transaction there waits for others."""

    parameters: Mapping[str, ConnParam]
    """Those of libpq, perhaps with a password."""
    schema: str
    patience: float

    def __repr__(self) -> str:
        """Return it without the parameters' password."""
        return f"DatabaseServer(schema={self.schema!r}, patience={self.patience})"

    @classmethod
    def of(cls, url: str, *, schema: str, patience: float) -> Self:
        """Return the server of a connection URI of libpq.

        Raises `ConfigError` if it is none, or the schema's name is not one.
        """
        if not is_name(schema):
            raise ConfigError(f"store.schema: {schema!r} {NO_NAME}")
        try:
            parameters = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # Not repeated: the message of libpq quotes what may be a password.
            raise ConfigError(
                "store.url is no connection URI of PostgreSQL; write for example:"
                ' url = "postgresql://dispatcher@db.example/dispatcher"'
            ) from None
        return cls(parameters=parameters, schema=schema, patience=patience)

    @property
    def name(self) -> str:
        """What messages call it: without the user and without secrets."""
        named = [f"{key}={self.parameters[key]}" for key in _NAMED if key in self.parameters]
        return f"PostgreSQL ({' '.join([*named, f'schema={self.schema}'])})"

    @property
    def answer(self) -> float:
        """Seconds that a transaction waits for the server in all, connecting apart."""
        return self.patience + ANSWER

    @property
    def statement_ms(self) -> int:
        """Milliseconds after which the server ends a statement: earlier than `answer`."""
        return self._lock_ms + round(STATEMENT * 1000)

    @property
    def _lock_ms(self) -> int:
        return max(1, round(self.patience * 1000))  # 0 would be for ever

    def connect(self) -> Session:
        """Open a session. Raises `StoreUnavailable` and `StoreUnusable`."""
        try:
            session = Session.connect(
                self.conninfo(),
                autocommit=True,  # transactions begin and end by statements of their own
                context=_ADAPTERS,
            )
        except psycopg.Error as error:
            raise self.translated(error) from error
        session.left = self.answer
        try:
            self._refuse_unfit(session.info)
            is_direct = session.execute(self._prepares(session.info.backend_pid)).fetchone()
        except psycopg.Error as error:
            session.close()
            raise self.translated(error) from error
        except BaseException:
            session.close()
            raise
        if is_direct is None:
            session.is_pooled = True
            # Of a session in which another client listened; psycopg would keep them for ever.
            session.add_notify_handler(_ignore)
        return session

    def translated(self, error: Exception) -> DispatcherError:
        """Return the store's error for one of `postgresql_errors.ERRORS`."""
        return postgresql_errors.translated(error, self.name, self.patience, granting=self.granting)

    @property
    def granting(self) -> str:
        """The remedy for a role that may not do with the store what it tries."""
        role = self.parameters.get("user") or "this role"
        return postgresql_errors.membership(self.schema, str(role))

    def conninfo(self, *, first: int = 0) -> str:
        """Return the parameters, with those that the URL leaves open or may not decide.

        The hosts begin with the one that has the number `first`, from 0 and round again.
        """
        given = {
            key: _turned(str(value), first) if key in _OF_HOSTS else value
            for key, value in self.parameters.items()
        }
        addresses = str(given.get("host") or given.get("hostaddr")).split(",")
        wanted: Mapping[str, ConnParam] = {
            "target_session_attrs": "read-write",
            "application_name": f"dispatcher {socket.gethostname()} {os.getpid()}",
            "tcp_user_timeout": round(self.answer * 1000),
            "keepalives_idle": round(self.answer),
            "keepalives_interval": 1,
            "keepalives_count": 3,
        }
        decided: Mapping[str, ConnParam] = {
            "connect_timeout": max(round(ANSWER), int(self.answer / len(addresses))),
            "client_encoding": "UTF8",
        }
        return make_conninfo("", **{**wanted, **given, **decided})

    @property
    def _settings(self) -> Mapping[str, str]:
        """What statements need."""
        return {
            "lock_timeout": str(self._lock_ms),
            "statement_timeout": str(self.statement_ms),
            # So long a process that is stopped or cut off keeps others from the rows it locked.
            "idle_in_transaction_session_timeout": str(round(self.answer * 1000)),
            "client_min_messages": "warning",
            # Statements are prepared while tables are small, and then used while they grow.
            "enable_seqscan": "off",
            "jit": "off",
            "search_path": f'"{self.schema}"',
        }

    def _prepares(self, pid: int) -> bytes:
        """Return the statements that prepare a session; the first returns a row if they do.

        They change nothing behind a pooler: it hands its sessions out to others, too. They find one
        by the server's process: a pooler gives each client a number of its own, for its cancels.
        """
        found = f"WHERE pg_backend_pid() = {pid}"
        shares = f"SELECT pg_advisory_lock_shared({self.in_use})"
        return f"{_set(self._settings, is_local=False)} {found}; {shares} {found}".encode()

    def prepares_transaction(self, *, is_made: bool) -> list[bytes]:
        """Return the statements that follow a BEGIN behind a pooler; `is_made`: a store is there.

        The lock is taken before a snapshot is. It keeps off who needs the store alone, as the lock
        of a session does otherwise.
        """
        shares = [f'LOCK TABLE "{self.schema}".meta IN ACCESS SHARE MODE'] if is_made else []
        wanted = [f"SET LOCAL lock_timeout = {self._lock_ms}", *shares]
        wanted.append(_set(self._settings, is_local=True))
        return [one.encode() for one in wanted]

    @property
    def in_use(self) -> str:
        """The key, in SQL, of the lock that each session shares: who has it alone works alone."""
        return f"hashtextextended('dispatcher {self.schema} in use', 0)"

    def _refuse_unfit(self, found: psycopg.ConnectionInfo) -> None:
        """Raise `StoreUnusable` for an old server, or a database that cannot hold every text."""
        if found.server_version < OLDEST:
            major, minor = divmod(found.server_version, 10_000)
            raise StoreUnusable(
                f"{self.name} has version {major}.{minor}, and the dispatcher needs"
                f" {OLDEST // 10_000} or newer; upgrade the server"
            )
        if (encoding := found.parameter_status("server_encoding")) != "UTF8":
            raise StoreUnusable(
                f"{self.name} has the encoding {encoding}, which cannot hold every text; "
                "create a database with UTF8: createdb --template template0 --encoding UTF8"
            )


def _set(settings: Mapping[str, str], *, is_local: bool) -> str:
    """Return the statement that changes settings: of the transaction, or of the session."""
    changes = [f"set_config('{name}', '{value}', {is_local})" for name, value in settings.items()]
    return f"SELECT {', '.join([*changes, _DURABLE.format(is_local=is_local)])}"


def _turned(items: str, first: int) -> str:
    found = items.split(",")
    begin = first % len(found)
    return ",".join(found[begin:] + found[:begin])


def _ignore(_notify: psycopg.Notify) -> None: ...
