"""The daemon's end of the executor's socket: connect, greet, listen, send, notice silence."""

from __future__ import annotations

import array
import errno
import math
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from dispatcher import wire
from dispatcher.backoff import Backoff
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.daemon.survivors import survivors
from dispatcher.errors import ConfigError
from dispatcher.executor_api import Connected, Disconnected, Event, ExecutorApi, OutputState
from dispatcher.host.node import expect_same
from dispatcher.host.sockets import credentials
from dispatcher.outbox import Outbox
from dispatcher.times import Instant, wall_clock
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Seconds between two tries to connect: first, and at most.
RECONNECT = (0.02, 1.0)

#: Seconds between pings, and without any word before the executor counts as silent.
PING_INTERVAL = 5.0
SILENCE = 10.0

#: The same until its greeting, which is the first thing that it does.
SILENCE_BEFORE_GREETING = 2.0

#: Seconds without listening after which a silence is not the executor's: more than a turn takes.
LISTENING_GAP = PING_INTERVAL + 1.0

#: Seconds without reading anything of ours after which the executor is dropped.
SEND_PATIENCE = 10.0

#: Bytes of one read.
CHUNK = 64 * 1024


class Check(Protocol):
    """Who judges an executor's greeting."""

    def __call__(self, hello: wire.Hello, runs: Sequence[wire.RunReport]) -> None:
        """Raise a `DispatcherError` when this daemon must not work with it."""


class Launcher(Protocol):
    """Who starts an executor when none listens."""

    def ensure_running(self, *, at: Instant) -> None:
        """Start one, unless one that was started before still runs."""

    @property
    def last_error(self) -> str | None:
        """Why the last one did not stay, as it said; None: it stayed, or said nothing."""


class ExecutorClient:
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
        self._node_id = node_id
        self._state_dir = state_dir
        self._launcher = launcher
        self._check = check
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._outbox = Outbox()
        self._unsent = bytearray()
        self._hello: wire.Hello | None = None
        self._incompatible: wire.Hello | None = None
        self._runs: list[wire.RunReport] = []
        self._greeted = False
        self._retry_at = Instant(0.0)
        self._backoff = Backoff(*RECONNECT)
        self._at = Instant(0.0)
        """When we last listened."""
        self._asked_at: Instant | None = None
        """When the ping left that is not answered yet."""
        self._answered = Instant(0.0)
        """When the last one left that was answered: what was known then is known here."""
        self._waits_since: Instant | None = None
        """Since when we listen for a word that it owes us."""
        self._pinged_at = Instant(0.0)
        self._sent_at = Instant(0.0)
        self._answered_at = Instant(0.0)
        self._sequence = 0
        self._silent = False
        self._events: list[Event] = []
        self._worker_listeners: list[socket.socket] = []
        self._before_close: Callable[[], None] = lambda: None

    def call_before_close(self, action: Callable[[], None]) -> None:
        """Have `action` called before a connection is closed: its number may be another's next."""
        self._before_close = action

    @property
    def answering(self) -> bool:
        """Whether the executor greeted us and answers pings."""
        return self._greeted and not self._silent

    @property
    def missing(self) -> bool:
        """Whether none listens: one of its own unit, or one that we start and that exits."""
        refused = self._backoff.delay > 0 if self._launcher is None else self.last_error is not None
        return self._socket is None and refused

    @property
    def greeting(self) -> wire.Hello | None:
        """The greeting of the present connection; None: it has not come, or not whole."""
        return self._hello if self._greeted else None

    @property
    def incompatible(self) -> wire.Hello | None:
        """The greeting of an executor that speaks another version, as long as it is there."""
        return self._incompatible

    @property
    def last_error(self) -> str | None:
        """The last error of an executor that exited; None: one is there, or none is known."""
        return None if self._greeted or self._launcher is None else self._launcher.last_error

    @property
    def silent(self) -> bool:
        """Whether it holds our connection, and has said nothing for too long."""
        return self._silent

    @property
    def answered_at(self) -> Instant:
        """When it last said anything."""
        return self._answered_at

    def has_answered(self, *, since: Instant) -> bool:
        """Whether it answered a ping of after an instant; if not, one leaves with the next flush.

        Other words prove nothing: they may have waited here since before.
        """
        if self._answered >= since:
            return True
        if self._greeted and self._asked_at is None:
            self._ping(self._at)
        return False

    @property
    def connection(self) -> socket.socket | None:
        """The present connection, to wait on."""
        return self._socket

    @property
    def uid(self) -> int:
        """The user that the executor at the present connection, and so every run of it, is."""
        return os.geteuid() if self._socket is None else credentials(self._socket)[1]

    @property
    def wants_to_write(self) -> bool:
        """Whether something waits for the connection to become writable."""
        return bool(self._unsent or self._outbox)

    def take_worker_listeners(self) -> list[socket.socket]:
        """Return the listening worker sockets that came, once each; they are yours.

        The last is the one to listen at; workers may still wait at those before.
        """
        listeners, self._worker_listeners = self._worker_listeners, []
        return listeners

    def send(self, message: wire.ToExecutor) -> None:
        """Queue a message for `flush`; without a connection it is lost, as `Disconnected` said.

        A start that no executor could read has failed: `receive` returns that.
        """
        if self._socket is None:
            return
        if isinstance(message, wire.Start) and (why := wire.unreadable(message)) is not None:
            text = f"cannot be started: {why}"
            failed = wire.StartFailed(uid=message.uid, fault=wire.Fault.TASK, error=text)
            self._events.append(failed)
        else:
            self._outbox.put(message)

    def output_state(self, path: str, pid: int | None) -> OutputState:
        """Look at a run's output file, also where its name was removed or is another's by now."""
        own = f"/proc/{pid}/fd/1"
        try:
            if pid is None or os.path.dirname(_target(own)) != os.path.dirname(path):  # noqa: PTH120
                own = path  # its leader writes elsewhere now, has exited, or is another user's
            found = os.stat(own)  # noqa: PTH116 - as cheap as it gets
        except OSError:
            return OutputState(0, 0.0, math.inf)
        age = (wall_clock() - found.st_mtime_ns // 1_000_000) / 1000
        return OutputState(found.st_size, found.st_mtime, age)

    def survivors(self, runs: Mapping[RunUid, Collection[str]]) -> Mapping[RunUid, str]:
        """Look on this host for processes of runs that no executor knows."""
        return survivors(runs)

    def reconnect(self) -> None:
        """Drop the connection; the next greeting comes from a fresh one."""
        self._drop("reconnecting", retry_at=Instant(0.0))

    def close(self) -> None:
        """Close what is open."""
        self._close_socket()
        for listener in self._worker_listeners:
            listener.close()

    def run_due(self, *, at: Instant) -> Instant:
        """Connect, ping and judge silence as due; return when to be called again."""
        if self._socket is None:
            if at >= self._retry_at:
                self._try_to_connect(at)
            return self._retry_at if self._socket is None else Instant(at + PING_INTERVAL)
        if self._unsent and at - self._sent_at > SEND_PATIENCE:
            self._drop("does not read", retry_at=at)
            return at
        if self._greeted and self._asked_at is None and at - self._pinged_at >= PING_INTERVAL:
            self._ping(at)
        self._judge_silence(at)
        if self._events:
            return at
        next_ping = self._pinged_at + PING_INTERVAL
        return Instant(next_ping if next_ping > at else at + PING_INTERVAL)

    def _judge_silence(self, at: Instant) -> None:
        waits, stranger = self._waits_since, self._incompatible
        patience = SILENCE if self._greeted else SILENCE_BEFORE_GREETING
        silent = waits is not None and stranger is None and at - waits > patience
        if silent != self._silent:
            self._silent = silent
            log.warning("executor.silent" if silent else "executor.answered")

    def _ping(self, at: Instant) -> None:
        self._sequence += 1
        self._pinged_at = self._asked_at = at
        self._waits_since = self._waits_since or at
        self.send(wire.Ping(sequence=self._sequence))

    def receive(self, *, at: Instant) -> list[Event]:
        """Return what the executor said since the last call."""
        if self._waits_since is not None and at - self._at > LISTENING_GAP:
            self._waits_since = at  # it could have said what it liked
        self._at = at
        if self._socket is not None:
            self._read(self._socket, at)
        events, self._events = self._events, []
        return events

    def flush(self, *, at: Instant) -> None:
        """Send as much of what is queued as the socket takes."""
        if self._socket is None:
            return
        if not self._unsent:
            self._unsent += self._outbox.take()
            self._sent_at = at
        if not self._unsent:
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            # It does not listen any more; what it said before it went is still to be heard.
            self._read(self._socket, at)
            self._drop(os.strerror(error.errno or errno.EPIPE), retry_at=at)
            return
        self._sent_at = at
        del self._unsent[:sent]

    # Connecting ---------------------------------------------------------------------------

    def _try_to_connect(self, at: Instant) -> None:
        try:
            self._socket = self._connect()
        except OSError as error:
            waited, delay = self._backoff.delay, self._backoff.grow()
            # At a boot the executor's unit is started after the daemon's: that is worth no word.
            if self._launcher is None and waited < self._backoff.longest == delay:
                reason = f"no executor listens, and it has a unit of its own: {error.strerror}"
                log.warning("daemon.waiting", reason=reason)
            self._retry_at = Instant(at + delay)
            if self._launcher is not None:
                self._launcher.ensure_running(at=at)
            return
        self._backoff.reset()
        self._pinged_at = self._sent_at = self._waits_since = at

    def _drop(self, reason: str, *, retry_at: Instant) -> None:
        if self._socket is not None:
            self._close_socket()
            self._events.append(Disconnected(reason))
        self._received.clear()
        self._outbox.clear()
        self._unsent.clear()
        self._hello, self._runs, self._greeted, self._silent = None, [], False, False
        self._incompatible = None
        self._asked_at, self._waits_since, self._retry_at = None, None, retry_at

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._before_close()
            self._socket.close()
            self._socket = None

    # Listening ----------------------------------------------------------------------------

    def _read(self, connection: socket.socket, at: Instant) -> None:
        heard = False
        try:
            while chunk := self._take(connection):
                heard, self._answered_at = True, at
                self._received += chunk
                if len(chunk) < CHUNK:
                    break
            ended = not chunk
        except BlockingIOError:
            ended = False
        except OSError as error:
            self._drop(os.strerror(error.errno or errno.EPIPE), retry_at=at)
            return
        try:
            for message in self._messages():
                self._hear(message)
        except UNREADABLE as error:
            self._drop(f"not understood: {in_words(error)}", retry_at=Instant(at + RECONNECT[1]))
            return
        if len(self._received) > wire.MAX_LINE:
            reason = f"a line of more than {wire.MAX_LINE} bytes"
            self._drop(reason, retry_at=Instant(at + RECONNECT[1]))
            return
        if heard:
            self._waits_since = None if self._greeted and self._asked_at is None else at
        if ended:
            self._drop("connection closed", retry_at=at)

    def _take(self, connection: socket.socket) -> bytes:
        room = socket.CMSG_LEN(array.array("i").itemsize * wire.MAX_LISTENERS)
        chunk, ancillary, _, _ = connection.recvmsg(CHUNK, room, socket.MSG_CMSG_CLOEXEC)
        for _, _, data in ancillary:
            came = [socket.socket(fileno=descriptor) for descriptor in array.array("i", data)]
            self._worker_listeners += *came[1:], *came[:1]
        return chunk

    def _messages(self) -> Iterator[wire.FromExecutor]:
        end = self._received.rfind(b"\n")
        if end < 0:
            return
        lines = bytes(self._received[:end]).split(b"\n")
        del self._received[: end + 1]
        for line in lines:
            yield wire.decode_from_executor(line)

    def _hear(self, message: wire.FromExecutor) -> None:
        match message:
            case wire.Hello():
                self._greet(message)
            case wire.RunReport():
                self._runs.append(message)
            case wire.HelloEnd():
                self._agree()
            case wire.Pong():
                if self._asked_at is not None and message.sequence == self._sequence:
                    self._answered, self._asked_at = self._asked_at, None
            case _:
                self._events.append(message)

    def _greet(self, hello: wire.Hello) -> None:
        if hello.node_id != self._node_id:
            raise ConfigError(self._stranger(hello))
        expect_same(self._node_id, Path(self._state_dir), Path(hello.state_dir), hello.pid)
        if hello.version not in {wire.VERSION, wire.VERSION - 1}:
            self._incompatible = hello
            log.error("executor.incompatible", version=hello.version, wanted=wire.VERSION)
            return
        self._hello = hello

    def _stranger(self, hello: wire.Hello) -> str:
        """Return what to do about an executor of another node."""
        if hello.state_dir == self._state_dir:
            return (
                f"the executor at this socket (pid {hello.pid}, node {hello.node_id}) has lost its"
                f" state directory: {self._state_dir} was made anew (node {self._node_id}); end"
                f" that executor, which ends its runs: kill {hello.pid}"
            )
        return (
            f"the executor at this socket is of another node: its state directory is"
            f" {hello.state_dir} (node {hello.node_id}), ours is {self._state_dir}"
            f" (node {self._node_id}); give each its own [node] runtime_dir"
        )

    def _agree(self) -> None:
        if self._hello is not None:
            runs, self._runs = tuple(self._runs), []
            self._check(self._hello, runs)
            self._greeted = True
            self._answered = self._pinged_at  # when we connected, before it looked at its runs
            self._events.append(Connected(self._hello, runs))


def connect_to(path: str) -> socket.socket:
    """Return a connection to the executor's socket; raises OSError when none listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def fits(client: ExecutorClient) -> ExecutorApi:
    """Return the client as what the supervisor sees of it: the type checker's proof."""
    return client


def _target(link: str) -> str:
    """Return where a link leads; "" if that cannot be read."""
    try:
        return os.readlink(link)  # noqa: PTH115 - as cheap as it gets
    except OSError:
        return ""
