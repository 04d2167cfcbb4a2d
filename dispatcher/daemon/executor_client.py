"""The daemon's client of the executor: connects, checks the greeting, pings, notices silence."""

import errno
import os
import socket
from collections.abc import Callable

import structlog

from dispatcher import wire
from dispatcher.backoff import Backoff
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.daemon.executor_connection import ExecutorConnection, why_unreadable
from dispatcher.daemon.greeting import Check, Greeting
from dispatcher.daemon.launcher import Launcher
from dispatcher.daemon.output_state import output_state
from dispatcher.daemon.survivors import survivors
from dispatcher.executor_api import Disconnected, Event, ExecutorApi
from dispatcher.times import Instant

log = structlog.get_logger()

#: Seconds between two tries to connect: first, and at most.
RECONNECT = (0.02, 1.0)

#: Seconds between pings, and without a message before the executor counts as silent.
PING_INTERVAL = 5.0
SILENCE = 10.0

#: The same until its greeting, which is the first thing that it sends.
SILENCE_BEFORE_GREETING = 2.0

#: Seconds between two reads after which a silence is not the executor's: more than a turn takes.
READING_GAP = PING_INTERVAL + 1.0


class ExecutorClient(ExecutorApi):
    """One connection at a time to the executor of this node; made anew whenever it ends."""

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        *,
        node_id: str,
        state_dir: str,
        check: Check,
        launcher: Launcher | None = None,
    ) -> None:
        """`connect` returns a connected, non-blocking socket or raises OSError."""
        self._connect = connect
        self._launcher = launcher
        self._greeting = Greeting(node_id, state_dir, check)
        self._connection: ExecutorConnection | None = None
        self._retry_at = Instant(0.0)
        self._backoff = Backoff(*RECONNECT)
        self._read_at = Instant(0.0)
        self._pending_ping_at: Instant | None = None
        self._answered_ping_at = Instant(0.0)
        """When the last answered ping was sent: all that the executor knew then is known here."""
        self._awaiting_since: Instant | None = None
        """Since when a message is due from the executor."""
        self._pinged_at = Instant(0.0)
        self._last_read_at = Instant(0.0)
        self._sequence = 0
        self._silent = False
        self._events: list[Event] = []
        self._worker_listeners: list[socket.socket] = []
        self._before_close: Callable[[], None] = lambda: None

    def call_before_close(self, action: Callable[[], None]) -> None:
        """Call `action` before a connection is closed: its descriptor may be reused."""
        self._before_close = action

    @property
    def answering(self) -> bool:
        return self.greeting is not None and not self._silent

    @property
    def missing(self) -> bool:
        refused = self._backoff.delay > 0 if self._launcher is None else self.last_error is not None
        return self._connection is None and refused

    @property
    def greeting(self) -> wire.Hello | None:
        return self._greeting.accepted

    @property
    def incompatible(self) -> wire.Hello | None:
        return self._greeting.incompatible

    @property
    def last_error(self) -> str | None:
        return self._launcher.last_error if self._launcher and self.greeting is None else None

    @property
    def silent(self) -> bool:
        return self._silent

    @property
    def last_read_at(self) -> Instant:
        return self._last_read_at

    def has_answered(self, *, since: Instant) -> bool:
        """Whether it answered a ping sent since an instant; if not, the next flush sends one.

        Other messages prove nothing: they may have waited here since before.
        """
        if self._answered_ping_at >= since:
            return True
        if not self._owes_a_message:
            self._ping(self._read_at)
        return False

    @property
    def connection(self) -> socket.socket | None:
        return None if self._connection is None else self._connection.socket

    @property
    def uid(self) -> int:
        """The user of the connected executor and of its runs."""
        return os.geteuid() if self._connection is None else self._connection.uid

    @property
    def wants_to_write(self) -> bool:
        return self._connection is not None and self._connection.wants_to_write

    def take_worker_listeners(self) -> list[socket.socket]:
        """Return the listening worker sockets received since the last call; they are yours.

        Listen at the last one; workers may still wait at those before.
        """
        listeners, self._worker_listeners = self._worker_listeners, []
        return listeners

    def send(self, message: wire.ToExecutor) -> None:
        """Queue a message for `flush`; without a connection drop it, as `Disconnected` reported.

        A start that no executor could read fails at once, as the next `receive` reports.
        """
        if self._connection is None:
            return
        if isinstance(message, wire.Start) and (why := why_unreadable(message)) is not None:
            text = f"cannot be started: {why}"
            failed = wire.StartFailed(uid=message.uid, fault=wire.Fault.TASK, error=text)
            self._events.append(failed)
        else:
            self._connection.put(message)

    output_state = staticmethod(output_state)
    survivors = staticmethod(survivors)

    def reconnect(self) -> None:
        self._drop("reconnecting", retry_at=Instant(0.0))

    def close(self) -> None:
        self._close_connection()
        for listener in self._worker_listeners:
            listener.close()

    def run_due(self, *, at: Instant) -> Instant:
        """Connect, ping and judge silence as due; return when to be called again."""
        if self._connection is None:
            if at >= self._retry_at:
                self._try_to_connect(at)
            return self._retry_at if self._connection is None else Instant(at + PING_INTERVAL)
        if self._connection.is_stuck(at=at):
            self._drop("does not read", retry_at=at)
            return at
        if not self._owes_a_message and at - self._pinged_at >= PING_INTERVAL:
            self._ping(at)
        self._judge_silence(at)
        if self._events:
            return at
        next_ping = self._pinged_at + PING_INTERVAL
        return Instant(next_ping if next_ping > at else at + PING_INTERVAL)

    def receive(self, *, at: Instant) -> list[Event]:
        """Return the events since the last call."""
        if self._awaiting_since is not None and at - self._read_at > READING_GAP:
            self._awaiting_since = at  # we did not read: the executor was not silent
        self._read_at = at
        if self._connection is not None:
            self._read(self._connection, at)
        events, self._events = self._events, []
        return events

    def flush(self, *, at: Instant) -> None:
        """Send as much of what is queued as the socket takes."""
        if self._connection is None:
            return
        try:
            self._connection.flush(at=at)
        except OSError as error:
            # It reads no more; what it sent before it went is still to be read.
            self._read(self._connection, at)
            self._drop(os.strerror(error.errno or errno.EPIPE), retry_at=at)

    def _try_to_connect(self, at: Instant) -> None:
        try:
            self._connection = ExecutorConnection(self._connect(), at=at)
        except OSError as error:
            waited, delay = self._backoff.delay, self._backoff.grow()
            # At a boot the executor's unit is started after the daemon's: that is worth no warning.
            if self._launcher is None and waited < self._backoff.longest == delay:
                reason = f"no executor listens, and it has a unit of its own: {error.strerror}"
                log.warning("daemon.waiting", reason=reason)
            self._retry_at = Instant(at + delay)
            if self._launcher is not None:
                self._launcher.ensure_running(at=at)
            return
        self._backoff.reset()
        self._pinged_at = self._awaiting_since = at

    def _drop(self, reason: str, *, retry_at: Instant) -> None:
        if self._connection is not None:
            self._close_connection()
            self._events.append(Disconnected(reason))
        self._greeting, self._silent = self._greeting.renewed(), False
        self._pending_ping_at, self._awaiting_since, self._retry_at = None, None, retry_at

    def _close_connection(self) -> None:
        if self._connection is not None:
            self._before_close()
            self._connection.socket.close()
            self._connection = None

    def _read(self, connection: ExecutorConnection, at: Instant) -> None:
        later = Instant(at + RECONNECT[1])
        try:
            received, ended = connection.read(self._worker_listeners)
        except OSError as error:
            self._drop(os.strerror(error.errno or errno.EPIPE), retry_at=at)
            return
        try:
            for message in connection.messages():
                self._handle(message)
        except UNREADABLE as error:
            self._drop(f"not understood: {in_words(error)}", retry_at=later)
            return
        if connection.is_overlong:
            self._drop(f"a line of more than {wire.MAX_LINE} bytes", retry_at=later)
            return
        if received:
            self._last_read_at = at
            self._awaiting_since = at if self._owes_a_message else None
        if ended:
            self._drop("connection closed", retry_at=at)

    def _handle(self, message: wire.FromExecutor) -> None:
        match message:
            case wire.Hello():
                self._greeting.begin(message)
            case wire.RunReport():
                self._greeting.add(message)
            case wire.HelloEnd():
                if (connected := self._greeting.complete()) is not None:
                    self._answered_ping_at = self._pinged_at  # we connected before it read its runs
                    self._events.append(connected)
            case wire.Pong():
                if self._pending_ping_at is not None and message.sequence == self._sequence:
                    self._answered_ping_at, self._pending_ping_at = self._pending_ping_at, None
            case _:
                self._events.append(message)

    @property
    def _owes_a_message(self) -> bool:
        return self.greeting is None or self._pending_ping_at is not None

    def _ping(self, at: Instant) -> None:
        self._sequence += 1
        self._pinged_at = self._pending_ping_at = at
        self._awaiting_since = self._awaiting_since or at
        self.send(wire.Ping(sequence=self._sequence))

    def _judge_silence(self, at: Instant) -> None:
        since, is_greeted = self._awaiting_since, self.greeting is not None
        patience = SILENCE if is_greeted else SILENCE_BEFORE_GREETING
        silent = since is not None and self.incompatible is None and at - since > patience
        if silent != self._silent:
            self._silent = silent
            log.warning("executor.silent" if silent else "executor.answered")
