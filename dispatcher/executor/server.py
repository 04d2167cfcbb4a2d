"""The executor's sockets: one connection to one daemon, and the workers' listener, which it keeps.

Both ways are non-blocking. A new connection ends the old one, whose unread bytes are dropped.
"""

import os
import select
import socket
from collections import deque
from collections.abc import Iterable
from functools import partial

from dispatcher import wire
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.executor.log import Log
from dispatcher.executor.system.kernel import Kernel
from dispatcher.host import sockets
from dispatcher.host.runtime_directory import BoundSocket
from dispatcher.outbox import Outbox
from dispatcher.times import NEVER, Instant

#: Connections that may wait: those of workers while a daemon restarts.
BACKLOG = 4096

#: Seconds for which a peer may read nothing while messages wait for it.
PATIENCE = 10.0

#: Seconds until accepting is tried again after it failed: in between, the waiting connection would
#: end every wait at once.
SHORTAGE_DELAY = 0.5

#: Lines handled in a tick: bounds how long a burst of starts can delay other runs' endings.
LINES_PER_TICK = 32

_CHUNK = 64 * 1024


class Server:
    """The executor's side of the wire protocol, over at most one connection."""

    def __init__(self, directory: str, kernel: Kernel, log: Log) -> None:
        self._kernel = kernel
        self._log = log
        listen = partial(sockets.listen, backlog=BACKLOG)
        self._door = BoundSocket(f"{directory}/executor.sock", listen, self._replace_door)
        self._workers = BoundSocket(f"{directory}/worker.sock", listen, self._pass_workers)
        self._is_open = False
        self._peer: socket.socket | None = None
        self._rest = b""
        self._lines: deque[bytes] = deque()
        self._outbox = Outbox()
        self._sending = memoryview(b"")
        self._earlier: list[socket.socket] = []
        """Earlier workers' listeners, at which workers still wait."""
        self._passing: list[socket.socket] = []
        """Descriptors to be passed with the next bytes."""
        self._stuck_since: Instant | None = None
        self._peer_reads = True
        """False for a peer that has closed, but may have left messages to be read."""
        self._reopen_at = NEVER
        self.all_read = True
        """Whether the last `receive` left nothing unread of what the daemon had sent."""

    def close(self) -> None:
        """Close all sockets; their files stay for the successor to replace."""
        self._hang_up()
        for one in (self._door.socket, self._workers.socket, *self._earlier):
            one.close()

    @property
    def names(self) -> tuple[BoundSocket, ...]:
        """Its entries in the runtime directory."""
        return self._door, self._workers

    def _replace_door(self, _: socket.socket, before: socket.socket) -> None:
        """Accept daemons at another socket; those that wait at the old one must try again."""
        if self._is_open and self._reopen_at == NEVER:  # otherwise it is not watched
            self._kernel.ignore(before.fileno())
        if self._is_open:
            self._reopen_at = Instant(0.0)  # the next tick opens it
        before.close()

    def _pass_workers(self, now: socket.socket, before: socket.socket) -> None:
        """Pass the workers' new listener to the daemon, with the next bytes for it.

        Workers that wait at the old one are served by the daemon that has it, or by the next.
        """
        self._keep_waited_at((*self._earlier, before))
        if self._peer is not None:
            self._passing = [now, *(one for one in self._passing if one in self._earlier)]

    def _keep_waited_at(self, listeners: Iterable[socket.socket]) -> None:
        """Keep the latest listeners without a name at which workers wait; close the others."""
        listeners = list(listeners)
        waited_at = [one for one in listeners if _is_waited_at(one)]
        self._earlier = waited_at[1 - wire.MAX_LISTENERS :]
        for one in listeners:
            if one not in self._earlier:
                one.close()

    @property
    def connected(self) -> bool:
        return self._peer is not None

    @property
    def due(self) -> Instant:
        """When to flush even if nothing happens."""
        if self._lines:
            return Instant(0.0)
        if self._stuck_since is None:
            return self._reopen_at
        return Instant(min(self._stuck_since + PATIENCE, self._reopen_at))

    def open(self) -> None:
        """Accept daemons from now on; those that came earlier have waited."""
        self._reopen_at, self._is_open = NEVER, True
        self._kernel.watch(self._door.socket.fileno())

    def accept(self, ready: Iterable[int], at: Instant) -> bool:
        """Accept a new daemon and drop the old one; return whether there is a new one."""
        if at >= self._reopen_at:
            self.open()
        listener = self._door.socket
        if listener.fileno() not in ready:
            return False
        self._drop("another one came")
        try:
            self._peer, _ = listener.accept()
            self._peer.setblocking(False)
            self._kernel.watch(self._peer.fileno())
        except OSError as error:
            self._log("daemon.shut_out", reason=error.strerror)
            self._hang_up()
            self._kernel.ignore(listener.fileno())
            self._reopen_at = Instant(at + SHORTAGE_DELAY)
            return False
        self._keep_waited_at(self._earlier)
        self._passing = [self._workers.socket, *self._earlier]
        return True

    def receive(self, ready: Iterable[int]) -> list[wire.ToExecutor]:
        """Return the next messages; a peer that sends anything else is dropped."""
        more = self._peer is not None and self._peer.fileno() in ready
        if self._peer is not None and more and not self._lines:
            more = self._read(self._peer)
        messages: list[wire.ToExecutor] = []
        while self._lines and len(messages) < LINES_PER_TICK:
            try:
                messages.append(wire.decode_to_executor(self._lines.popleft()))
            except UNREADABLE as error:
                self._drop(f"not a message: {in_words(error)}")
        self.all_read = not more and not self._lines
        return messages

    def send(self, message: wire.FromExecutor) -> None:
        """Queue a message; without a peer it is dropped, as the next hello reports everything."""
        if self._peer is not None and self._peer_reads:
            self._outbox.put(message)

    def flush(self, at: Instant) -> None:
        """Send what the peer takes without waiting; drop a peer that has taken nothing for long."""
        if self._peer is None:
            return
        was_stuck = self._stuck_since is not None
        try:
            while self._outbox or self._sending:
                self._send_some(self._peer)
        except BlockingIOError:
            if self._stuck_since is None:
                self._stuck_since = at
                self._kernel.watch(self._peer.fileno(), writable=True)
            elif at - self._stuck_since >= PATIENCE:
                self._drop("it does not read")
        except (BrokenPipeError, ConnectionResetError):
            # It has closed. What it sent before, starts too, is still read to its end.
            self._peer_reads = False
            self._discard_unsent()
            self._kernel.watch(self._peer.fileno())
        except OSError as error:
            self._drop(f"cannot be written to: {error.strerror}")
        else:
            if was_stuck:
                self._kernel.watch(self._peer.fileno())

    def _send_some(self, peer: socket.socket) -> None:
        if not self._sending:
            self._sending = memoryview(self._outbox.take())
        if self._passing:  # descriptors travel with the first bytes of the hello
            descriptors = [one.fileno() for one in self._passing]
            sent = socket.send_fds(peer, [self._sending], descriptors)
            self._passing = []
        else:
            sent = peer.send(self._sending)
        self._sending = self._sending[sent:]
        self._stuck_since = None

    def _read(self, peer: socket.socket) -> bool:
        """Read a piece; return whether there may be more."""
        try:
            chunk = peer.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            self._drop(f"cannot be read: {error.strerror}")
            return False
        if not chunk:
            self._drop("it closed")
            return False
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if any(len(line) > wire.MAX_LINE for line in (*lines, self._rest)):
            self._drop(f"a line of more than {wire.MAX_LINE} bytes")
            return False
        self._lines.extend(lines)
        return len(chunk) == _CHUNK

    def _drop(self, reason: str) -> None:
        if self._peer is not None:
            self._log("daemon.dropped", reason=reason)
            self._hang_up()

    def _hang_up(self) -> None:
        if self._peer is not None:
            self._peer.close()
        self._peer = None
        self._peer_reads = True
        self._rest = b""
        self._lines.clear()
        self._discard_unsent()

    def _discard_unsent(self) -> None:
        self._outbox.clear()
        self._sending = memoryview(b"")
        self._passing = []
        self._stuck_since = None


def _is_waited_at(listener: socket.socket) -> bool:
    look = select.poll()
    look.register(listener, select.POLLIN)
    return bool(look.poll(0))


def too_long(path: str) -> str | None:
    """Return what is wrong with a socket path that the kernel would refuse; None if nothing is."""
    size = len(os.fsencode(path))
    if size <= sockets.MAX_PATH:
        return None
    return (
        f"the socket path {path} has {size} bytes, Linux allows {sockets.MAX_PATH}: "
        "choose a shorter runtime directory ([node] runtime_dir)"
    )
