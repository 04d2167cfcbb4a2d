"""The bell of a shared store: NOTIFY rings with the commit, and a connection of its own listens.

Nothing here waits: libpq connects, asks and answers while the daemon's loop goes on.
"""

import random
import select
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Final

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn

from dispatcher.backoff import Backoff
from dispatcher.store.server import DatabaseServer
from dispatcher.times import Instant, instant

#: Seconds until a lost connection is made again: first, and at most; doubling. Each is drawn from
#: its upper half, so that daemons that lost one server do not return together.
RETRY: Final = (0.5, 30.0)

#: Seconds between two checks of a connection on which nothing arrives.
CHECK_EVERY: Final = 60.0

#: Part of the server's queue of notifications from which on nobody rings: a full one would refuse
#: the commit.
FULL: Final = 0.9

_POOLED: Final = (
    "a pooler is in between, which in transaction mode passes no notifications on, and none has"
    " come yet; let store.url name the server itself, or a pooler in session mode"
)

_FILLED: Final = (
    "the server's queue of notifications is {percent:.0f} % full, as a session that listens is in a"
    " transaction for long, and commits wake nobody until it ends; find it: dispatcher doctor"
)

_LISTENS: Final = """
SELECT pg_backend_pid(), pg_is_in_recovery(), pg_notification_queue_usage(),
    EXISTS (SELECT 1 FROM pg_listening_channels() AS one (name) WHERE one.name = '{channel}')
"""

_WANTED: Final = {
    pq.PollingStatus.READING: select.EPOLLIN,
    pq.PollingStatus.WRITING: select.EPOLLOUT,
}

#: Waits until its descriptor is ready; what it yields are the events.
_Steps = Generator[int, None, None]


class ServerBell:
    """Rings in each transaction; who asks for its descriptor also listens.

    The channel has the schema's name, so that installations in one database do not wake each other.
    """

    def __init__(
        self,
        server: DatabaseServer,
        *,
        clock: Callable[[], Instant] = instant,
        rng: random.Random | None = None,
    ) -> None:
        # All commits that notify take one lock of the whole server, and hold it until they are on
        # the disk and on the standby. Their wait for it may last as long as a statement.
        # It is set as the time-out for locks, since that for statements does not apply to a COMMIT.
        # Who asks how full the queue is lets the server drop what all have read; a full queue never
        # does that by itself.
        self.statement = f"""
SELECT set_config('lock_timeout', '{server.statement_ms}', TRUE),
    CASE WHEN pg_notification_queue_usage() < {FULL} THEN pg_notify('{server.schema}', '') END
"""
        self._server = server
        self._clock = clock
        self._rng = rng or random.SystemRandom()
        self._ready: select.epoll | None = None
        """Readable once the connection has something to read, whichever connection it is."""
        self._connection: PGconn | None = None
        self._steps: _Steps | None = None
        self._watched: int | None = None
        """The descriptor of the connection."""
        self._first = 0
        """Which of the URL's hosts is tried first. libpq tries the next one if a host refuses, but
        waits for a silent one as long as we do: then the next try begins at the next host."""
        self._pid = 0
        """The server's process that listens for us."""
        self._backoff = Backoff(*RETRY)
        self._due = clock()
        """When to connect, to check, or to give up the wait for an answer."""
        self._failure: str | None = None
        self._heard = 0
        self._listens = False
        """Whether rings arrive by this connection, as found last."""
        self._is_trusted = False
        """Whether they arrive while its session listens. A pooler's is trusted once one has come:
        that the session which answers listens does not show whose it is when a ring comes."""

    def ring(self) -> None:
        """Do nothing: the commit has rung."""

    @property
    def heard(self) -> int | None:
        return self._heard if self._listens else None

    @property
    def failure(self) -> str | None:
        return self._failure

    def fileno(self) -> int:
        if self._ready is None:
            self._ready = select.epoll()
            self.read()
        return self._ready.fileno()

    def read(self) -> None:
        if self._ready is None:
            return
        at = self._clock()
        try:
            if self._connection is None:
                if at >= self._due:
                    self._connect(at)
            elif self._steps is not None and at >= self._due:
                self._first += 1
                raise psycopg.OperationalError("the server did not answer in time")
            elif self._steps is None:
                self._connection.consume_input()
                if at >= self._due:
                    self._begin(self._check(), at)
            is_unasked = self._steps is None
            self._go_on()
            self._take_rings(is_unasked=is_unasked)
        except psycopg.Error as error:
            self._lose(str(error), at)

    def close(self) -> None:
        self._drop()
        if self._ready is not None:
            self._ready.close()
            self._ready = None

    def _connect(self, at: Instant) -> None:
        self._connection = pq.PGconn.connect_start(
            self._server.conninfo(first=self._first).encode()
        )
        self._begin(self._listen(), at)

    def _begin(self, steps: _Steps, at: Instant) -> None:
        self._steps, self._due = steps, Instant(at + self._server.answer)

    def _go_on(self) -> None:
        """Do what can be done without a wait; then wait for the next events."""
        wanted = select.EPOLLIN
        if self._steps is not None:
            try:
                wanted = next(self._steps)
            except StopIteration:
                self._steps, self._due = None, Instant(self._clock() + CHECK_EVERY)
        if self._connection is not None:
            self._watch(self._connection.socket, wanted)

    def _listen(self) -> _Steps:
        """Connect, listen, and check that the session that listens is ours."""
        connection = self._connection
        assert connection is not None
        yield select.EPOLLOUT
        while (status := pq.PollingStatus(connection.connect_poll())) in _WANTED:
            yield _WANTED[status]
        if status != pq.PollingStatus.OK:
            raise psycopg.OperationalError(connection.get_error_message())
        connection.nonblocking = 1
        channel = self._server.schema
        own = connection.backend_pid  # behind a pooler it is none of the server's
        asked = (
            f"SELECT set_config('idle_session_timeout', '0', FALSE) WHERE pg_backend_pid() = {own}"
        )
        ((pid,),) = yield from self._ask(f'{asked}; LISTEN "{channel}"; SELECT pg_backend_pid()')
        self._pid, self._is_trusted = int(pid), int(pid) == own
        yield from self._check()
        self._backoff.reset()

    def _check(self) -> _Steps:
        """Find out whether the session at the other end is the one that listens."""
        asked = _LISTENS.format(channel=self._server.schema)
        ((pid, recovers, usage, listens),) = yield from self._ask(asked)
        if recovers != b"f":
            raise psycopg.OperationalError("the server is a standby")
        self._failure = None
        if not self._is_trusted or int(pid) != self._pid or listens != b"t":
            self._failure = _POOLED
        elif float(usage) >= FULL:
            self._failure = _FILLED.format(percent=float(usage) * 100)
        arrives = self._failure is None
        self._heard += arrives and not self._listens
        self._listens = arrives

    def _ask(self, statement: str) -> Generator[int, None, list[tuple[bytes, ...]]]:
        """Return the rows of the last statement."""
        connection = self._connection
        assert connection is not None
        connection.send_query(statement.encode())
        while connection.flush():
            yield select.EPOLLIN | select.EPOLLOUT
        rows: list[tuple[bytes, ...]] = []
        while True:
            connection.consume_input()
            if connection.is_busy():
                yield select.EPOLLIN
                continue
            if (result := connection.get_result()) is None:
                return rows
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
            columns = range(result.nfields)
            rows = [
                tuple(result.get_value(row, column) or b"" for column in columns)
                for row in range(result.ntuples)
            ]

    def _take_rings(self, *, is_unasked: bool) -> None:
        connection = self._connection
        while connection is not None and connection.notifies() is not None:
            self._heard += 1
            if is_unasked and not self._is_trusted:  # not together with another session's answer
                self._is_trusted = self._listens = True
                self._failure = None

    def _watch(self, descriptor: int, events: int) -> None:
        if self._ready is None:
            return
        if descriptor != self._watched:
            self._unwatch()
        self._watched = descriptor
        try:
            self._ready.modify(descriptor, events)
        except FileNotFoundError:  # new; perhaps with the number of one that libpq closed
            self._ready.register(descriptor, events)

    def _unwatch(self) -> None:
        if self._ready is not None and self._watched is not None:
            with suppress(OSError):  # libpq closed it, as when it tries another address
                self._ready.unregister(self._watched)
        self._watched = None

    def _lose(self, error: str, at: Instant) -> None:
        """Plan another connection."""
        self._drop()
        longest = self._backoff.grow()
        self._due = Instant(at + self._rng.uniform(longest / 2, longest))
        self._failure = f"{self._server.name}: {' '.join(error.split())}"

    def _drop(self) -> None:
        self._unwatch()
        self._steps, self._listens = None, False
        if self._connection is not None:
            self._connection.finish()
            self._connection = None
