"""One connection at a listening socket: a line is read, answered, and only then the next one."""

import selectors
import socket
from contextlib import suppress
from dataclasses import dataclass, field

from dispatcher import worker_api
from dispatcher.times import Instant

#: Seconds from the connection to its first valid line.
FIRST_LINE = 5.0

#: Seconds that an answer may wait for a peer that does not read.
UNREAD = 10.0


#: The user of a peer, and the mark of its run: 0 if it is of none.
Owner = tuple[int, int]


class LineTooLong(Exception):
    """A line exceeds `worker_api.MAX_LINE`: refuse it and close the connection."""


@dataclass(slots=True)
class Peer:
    """A connection, what it sent, and what waits to be sent to it."""

    connection: socket.socket
    owner: Owner
    pid: int
    connected_at: Instant
    active_at: Instant
    """When it last sent anything."""
    is_proved: bool = False
    """Whether it has sent a valid line."""
    awaits_reply: bool = False
    at_eof: bool = False
    """Whether it will send no more; it may still read."""
    events: int = 0
    """The events for which the selector watches it."""
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)

    @property
    def is_closed(self) -> bool:
        return self.connection.fileno() < 0

    @property
    def has_line(self) -> bool:
        """Whether a whole line waits to be handled."""
        return b"\n" in self.received

    @property
    def may_proceed(self) -> bool:
        """Whether its last line was answered, and the answer sent."""
        return not self.awaits_reply and not self.unsent

    @property
    def wanted_events(self) -> int:
        """The events to watch for: nothing is read while a line waits."""
        wanted = 0 if self.has_line or self.at_eof else selectors.EVENT_READ
        return wanted | (selectors.EVENT_WRITE if self.unsent else 0)

    @property
    def give_up_at(self) -> Instant | None:
        """When to drop it; None while there is no reason."""
        if self.unsent:
            return Instant(self.active_at + UNREAD)
        return None if self.is_proved else Instant(self.connected_at + FIRST_LINE)

    def receive(self, at: Instant) -> None:
        """Read what has arrived, at most one line's length. Raises OSError."""
        with suppress(BlockingIOError, InterruptedError):
            chunk = self.connection.recv(worker_api.MAX_LINE)
            self.at_eof = not chunk
            self.received += chunk
            self.active_at = at

    def take_line(self) -> bytes | None:
        """Return the next line without its end, None if it is not whole. Raises `LineTooLong`."""
        line, newline, rest = self.received.partition(b"\n")
        if len(line) >= worker_api.MAX_LINE:  # its end is a byte too
            raise LineTooLong
        if not newline:
            return None
        self.received = rest
        return bytes(line)

    def send(self) -> None:
        """Send as much as the socket takes. Raises OSError."""
        if self.unsent:
            with suppress(BlockingIOError, InterruptedError):
                del self.unsent[: self.connection.send(self.unsent)]
