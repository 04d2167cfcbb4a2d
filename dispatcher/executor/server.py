"""The executor's sockets: one connection to one daemon, and the workers' door, which it only holds.

Both ways are non-blocking. A new connection ends the old one, whose unread bytes are dropped.
"""

from __future__ import annotations

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

#: Connections that may wait: of workers, while a daemon restarts.
BACKLOG = 4096

#: Seconds for which a peer may leave unread what we have for it.
PATIENCE = 10.0

#: Seconds until a daemon that could not be let in is tried again: meanwhile it would tell at every
#: look that it waits.
SHORTAGE_PAUSE = 0.5

#: Lines handled in a tick: bounds how long a burst of starts can delay the ladder of others.
LINES_PER_TICK = 32

_CHUNK = 64 * 1024


class Server:
    """Speaks the wire protocol's executor side over at most one connection."""

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
        """Workers' doors of before, where some still wait for a daemon that takes them."""
        self._passing: list[socket.socket] = []
        """What travels with the next bytes."""
        self._stuck_since: Instant | None = None
        self._peer_reads = True
        """Whether the peer may still be written to: one that left may have left messages."""
        self._deaf_until = NEVER
        self.heard_all = True
        """Whether nothing that the daemon had said was left when it was last listened to."""

    def close(self) -> None:
        """Close everything; the sockets' files stay for the successor to replace."""
        self._hang_up()
        for one in (self._door.socket, self._workers.socket, *self._earlier):
            one.close()

    @property
    def names(self) -> tuple[BoundSocket, ...]:
        """What it has in the runtime directory."""
        return self._door, self._workers

    def _replace_door(self, _: socket.socket, before: socket.socket) -> None:
        """Let daemons in by another socket; who waits at the one before tries again."""
        if self._is_open and self._deaf_until == NEVER:  # else it is not watched
            self._kernel.ignore(before.fileno())
        if self._is_open:
            self._deaf_until = Instant(0.0)  # the next tick opens it
        before.close()

    def _pass_workers(self, now: socket.socket, before: socket.socket) -> None:
        """Hand the workers' new door to the daemon, with the next bytes for it.

        Who waits at the one before is answered by the daemon that has it, or by the next.
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
        """Whether a daemon is there."""
        return self._peer is not None

    @property
    def due(self) -> Instant:
        """When to flush even if nothing happens."""
        if self._lines:
            return Instant(0.0)
        if self._stuck_since is None:
            return self._deaf_until
        return Instant(min(self._stuck_since + PATIENCE, self._deaf_until))

    def open(self) -> None:
        """From now on let daemons in; those that came earlier have waited."""
        self._deaf_until, self._is_open = NEVER, True
        self._kernel.watch(self._door.socket.fileno())

    def accept(self, ready: Iterable[int], at: Instant) -> bool:
        """Let a new daemon in and the old one out; say whether there is a new one."""
        if at >= self._deaf_until:
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
            self._deaf_until = Instant(at + SHORTAGE_PAUSE)
            return False
        self._keep_waited_at(self._earlier)
        self._passing = [self._workers.socket, *self._earlier]
        return True

    def receive(self, ready: Iterable[int]) -> list[wire.ToExecutor]:
        """Return the next messages; a peer that talks nonsense is dropped."""
        speaks = self._peer is not None and self._peer.fileno() in ready
        if self._peer is not None and speaks and not self._lines:
            speaks = self._read(self._peer)
        messages: list[wire.ToExecutor] = []
        while self._lines and len(messages) < LINES_PER_TICK:
            try:
                messages.append(wire.decode_to_executor(self._lines.popleft()))
            except UNREADABLE as error:
                self._drop(f"not a message: {in_words(error)}")
        self.heard_all = not speaks and not self._lines
        return messages

    def send(self, message: wire.FromExecutor) -> None:
        """Queue a message; with nobody there it is dropped, as the next hello says it all."""
        if self._peer is not None and self._peer_reads:
            self._outbox.put(message)

    def flush(self, at: Instant) -> None:
        """Send what the peer takes without waiting; drop it when it has taken nothing for long."""
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
            # It has left. What it said before, starts among it, is still read, to its end.
            self._peer_reads = False
            self._forget_unsent()
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
        """Read a piece; say whether there may be more."""
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
        self._forget_unsent()

    def _forget_unsent(self) -> None:
        self._outbox.clear()
        self._sending = memoryview(b"")
        self._passing = []
        self._stuck_since = None


def _is_waited_at(listener: socket.socket) -> bool:
    look = select.poll()
    look.register(listener, select.POLLIN)
    return bool(look.poll(0))


def too_long(path: str) -> str | None:
    """Say what is wrong with a socket path that the kernel would refuse."""
    size = len(os.fsencode(path))
    if size <= sockets.MAX_PATH:
        return None
    return (
        f"the socket path {path} has {size} bytes, Linux allows {sockets.MAX_PATH}: "
        "choose a shorter runtime directory ([node] runtime_dir)"
    )
