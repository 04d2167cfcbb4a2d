"""One connection to the executor: lines and worker sockets in, messages out."""

import array
import socket
from collections.abc import Iterator

from dispatcher import wire
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.host.sockets import credentials
from dispatcher.outbox import Outbox
from dispatcher.times import Instant

#: Seconds for which the executor may leave unread what was sent to it.
SEND_PATIENCE = 10.0

#: Bytes of one read.
CHUNK = 64 * 1024


class ExecutorConnection:
    """A connected, non-blocking socket with its unparsed input and unsent output."""

    def __init__(self, connected: socket.socket, *, at: Instant) -> None:
        self.socket = connected
        self._received = bytearray()
        self._outbox = Outbox()
        self._unsent = bytearray()
        self._sent_at = at

    @property
    def uid(self) -> int:
        return credentials(self.socket)[1]

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent or self._outbox)

    def is_stuck(self, *, at: Instant) -> bool:
        """Whether the executor has not read for too long."""
        return bool(self._unsent) and at - self._sent_at > SEND_PATIENCE

    def put(self, message: wire.ToExecutor) -> None:
        """Queue a message for `flush`."""
        self._outbox.put(message)

    def flush(self, *, at: Instant) -> None:
        """Send as much as the socket takes. Raises OSError."""
        if not self._unsent:
            self._unsent += self._outbox.take()
            self._sent_at = at
        if self._unsent:
            try:
                sent = self.socket.send(self._unsent)
            except BlockingIOError:
                return
            self._sent_at = at
            del self._unsent[:sent]

    def read(self, listeners: list[socket.socket]) -> tuple[bool, bool]:
        """Read what has arrived; return whether anything has, and whether it is the end.

        Worker sockets are appended to `listeners`, the one to listen at last. Raises OSError.
        """
        received = False
        try:
            while chunk := self._receive(listeners):
                received = True
                self._received += chunk
                if len(chunk) < CHUNK:
                    break
        except BlockingIOError:
            return received, False
        return received, not chunk

    def messages(self) -> Iterator[wire.FromExecutor]:
        """Yield the messages of the whole lines read. Raises one of `UNREADABLE`."""
        end = self._received.rfind(b"\n")
        if end < 0:
            return
        lines = bytes(self._received[:end]).split(b"\n")
        del self._received[: end + 1]
        for line in lines:
            yield wire.decode_from_executor(line)

    @property
    def is_overlong(self) -> bool:
        """Whether the line that is not whole yet is longer than any may be."""
        return len(self._received) > wire.MAX_LINE

    def _receive(self, listeners: list[socket.socket]) -> bytes:
        room = socket.CMSG_LEN(array.array("i").itemsize * wire.MAX_LISTENERS)
        chunk, ancillary, _, _ = self.socket.recvmsg(CHUNK, room, socket.MSG_CMSG_CLOEXEC)
        for _, _, data in ancillary:
            received = [socket.socket(fileno=descriptor) for descriptor in array.array("i", data)]
            listeners += *received[1:], *received[:1]
        return chunk


def connect_to(path: str) -> socket.socket:
    """Return a connection to the executor's socket. Raises OSError when none listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def why_unreadable(start: wire.Start) -> str | None:
    """Return why no executor could read this start, None if it can.

    A line that it cannot read would end the connection.
    """
    try:
        line = wire.encode(start)
        wire.decode_to_executor(line)
    except UNREADABLE as error:
        return in_words(error)
    if len(line) <= wire.MAX_LINE:
        return None
    return (
        f"command, payload and environment, with what the profile adds, are {len(line)} bytes"
        f" as JSON, more than {wire.MAX_LINE}; pass what is long in a file"
    )
