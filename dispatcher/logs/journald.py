"""systemd's journal: whether a descriptor leads to it, and its own protocol.

A record is one datagram of fields: `NAME=value` lines or, where a value may have several lines, the
name, a line end, the value's length as 64 bits, the value (systemd.io/JOURNAL_NATIVE_PROTOCOL). A
record that is too large for a datagram is passed as a sealed file in memory.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Mapping

from dispatcher.host.files import sealed_file
from dispatcher.logs.writer import Sink

#: The priority of each level: sd-daemon(3).
PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

#: The prefix of a line of each level in the journal, which removes it (sd-daemon(3)).
PREFIX = {level: f"<{priority}>" for level, priority in PRIORITY.items()}

#: Where journald listens, and the variable for another socket.
SOCKET = "/run/systemd/journal/socket"
SOCKET_VARIABLE = "DISPATCHER_JOURNAL_SOCKET"

#: The variable with the instance of a service: systemd.unit(5), %i.
INSTANCE_VARIABLE = "DISPATCHER_INSTANCE"

#: Seconds between two attempts to reach an absent journald.
ABSENT_DELAY = 0.05

_TOO_LARGE = frozenset({errno.EMSGSIZE, errno.ENOBUFS})

#: Errors of a socket whose journald is gone, until another listens at the same path.
_GONE = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE})

_LENGTH = struct.Struct("<Q")


def leads_to(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Return whether a descriptor leads to the journal.

    systemd.exec(5): $JOURNAL_STREAM has its device and inode; a redirected descriptor has others.
    """
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def connected(
    form: str, descriptor: int, environ: Mapping[str, str]
) -> tuple[Connection | None, str | None]:
    """Return the connection for the records of a `[logs] format`; None: write lines instead.

    The text is the reason why a format of "journal" cannot be had.
    """
    if form != "journal" and not (form == "auto" and leads_to(descriptor, environ)):
        return None, None
    connection = Connection(environ)
    try:
        connection.connect()
    except OSError as error:
        why = f"{connection.path}: {error.strerror}" if form == "journal" else None
        return None, why
    return connection, None


def identifier(program: str, environ: Mapping[str, str]) -> str:
    """Return the identifier of a process in the journal: `SyslogIdentifier=` of its unit."""
    instance = environ.get(INSTANCE_VARIABLE)
    return f"{program}@{instance}" if instance else program


def field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name, _LENGTH.pack(len(value)), value)
    return b"%b=%b\n" % (name, value)


class Connection:
    """Sends records to journald, and never waits for it.

    systemd keeps the socket while journald restarts. If the socket was replaced, or journald was
    absent for a while, the next record connects again.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.path = environ.get(SOCKET_VARIABLE) or SOCKET
        self.absent: str | None = None
        """Why journald is absent; None: it took the last record, or has no room for it yet."""
        self._socket: socket.socket | None = None

    @property
    def sink(self) -> Sink:
        """This connection for a `NonBlockingWriter`."""
        return Sink(self.send, self.wait, self.close)

    def connect(self) -> None:
        """Connect once. Raises OSError if no journald listens."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                self._socket.connect(self.path)
            except OSError:
                self.close()
                raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, record: bytes) -> int:
        """Send a whole record; return its length.

        Raises BlockingIOError while journald has no room or is absent, and OSError for a record
        that cannot be sent.
        """
        try:
            self._send_or_reconnect(record)
        except BlockingIOError:
            self.absent = None
            raise
        except OSError as error:
            if self._socket is not None:
                raise
            self.absent = f"{self.path}: {error.strerror}"
            raise BlockingIOError(errno.EAGAIN, self.absent) from error
        self.absent = None
        return len(record)

    def wait(self, seconds: float) -> None:
        """Wait until journald has room, or may be back, for so many seconds at most."""
        room = select.poll()
        if self._socket is None:
            seconds = min(seconds, ABSENT_DELAY)
        else:
            room.register(self._socket, select.POLLOUT)
        room.poll(seconds * 1000)

    def _send_or_reconnect(self, record: bytes) -> None:
        """Send a record. Raises OSError; without a journald the socket is closed."""
        if self._socket is not None:
            try:
                self._send(self._socket, record)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                self.close()
            else:
                return
        self.connect()
        assert self._socket is not None
        try:
            self._send(self._socket, record)
        except OSError as error:
            if error.errno in _GONE:
                self.close()
            raise

    @staticmethod
    def _send(connection: socket.socket, record: bytes) -> None:
        try:
            connection.send(record, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
        else:
            return
        file = sealed_file("journal", record)
        try:
            socket.send_fds(connection, [b""], [file], socket.MSG_DONTWAIT)
        finally:
            os.close(file)
