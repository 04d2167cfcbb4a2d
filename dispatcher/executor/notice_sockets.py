"""The sockets of systemd's protocol, one for each run, their directory and their messages."""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from dispatcher import wire
from dispatcher.host import sockets
from dispatcher.host.runtime_directory import BoundSocket
from dispatcher.times import Instant

#: Bytes of one message: what systemd itself takes (NOTIFY_BUFFER_MAX).
MOST_BYTES = 4096

#: Digits of a number that is believed.
_MOST_DIGITS = 18


class Directory:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    @property
    def is_there(self) -> bool:
        """Whether a directory exists, also one that another process made."""
        return os.path.isdir(self.path)

    def restore(self) -> None:
        """Make the directory if it is missing. Raises OSError."""
        Path(self.path).mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not to be listed: a process needs the name of the socket that it opens.
        Path(self.path).chmod(0o711)


def named(path: str) -> BoundSocket:
    """Return a run's socket, bound later if its directory was removed. Raises OSError."""
    try:
        return BoundSocket(path, _bound)
    except (FileNotFoundError, NotADirectoryError):
        name = BoundSocket(path, lambda _: sockets.unbound(socket.SOCK_DGRAM))
        name.bind = _bound
        return name


def _bound(path: str) -> socket.socket:
    # Its directories control access; a worker may have become another user.
    return sockets.bound(path, socket.SOCK_DGRAM, mode=0o666)


def received(opened: Iterable[socket.socket], most: int) -> Iterator[tuple[socket.socket, bytes]]:
    """Yield at most so many messages that wait, each with its socket."""
    for one in opened:
        with suppress(OSError):  # there is no more
            while most > 0:
                message = one.recv(MOST_BYTES + 1)
                most -= 1
                yield one, message


def parsed(message: bytes, uid: wire.RunUid, serial: int, at: Instant) -> wire.Notice | None:
    """Return the parts of a message that concern us; None if there are none, or it is too long."""
    if len(message) > MOST_BYTES:
        return None
    beat = failed = False
    note: str | None = None
    until: float | None = None
    for line in message.split(b"\n"):
        name, _, value = line.partition(b"=")
        match name, value:
            case ((b"WATCHDOG" | b"READY"), b"1"):
                beat = True
            case b"WATCHDOG", b"trigger":
                failed = True
            case b"STATUS", _:
                note = value.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
            case b"EXTEND_TIMEOUT_USEC", _ if value.isdigit() and len(value) <= _MOST_DIGITS:
                until = at + int(value) / 1e6
    if not beat and not failed and note is None and until is None:
        return None
    return wire.Notice(uid=uid, serial=serial, beat=beat, failed=failed, note=note, until=until)
