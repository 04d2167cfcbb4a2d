"""The sockets of systemd's protocol, one of each run, and the directory that they are in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from dispatcher.host import sockets
from dispatcher.host.runtime_directory import BoundSocket

#: Bytes of one message: what systemd itself takes (NOTIFY_BUFFER_MAX).
MOST_BYTES = 4096


class Directory:
    """The directory of the sockets, which is made again as they are."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    @property
    def is_there(self) -> bool:
        """Whether there is one; it may be another."""
        return os.path.isdir(self.path)

    def make_again(self) -> None:
        """Make it, unless it is there. Raises OSError."""
        Path(self.path).mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not to be listed: who is let into the runtime directory must know whose socket it wants.
        Path(self.path).chmod(0o711)


def named(path: str) -> BoundSocket:
    """Return a run's socket; where its directory was removed, it gets its name with that.

    Raises OSError.
    """
    try:
        return BoundSocket(path, _bound)
    except (FileNotFoundError, NotADirectoryError):
        name = BoundSocket(path, lambda _: sockets.unbound(socket.SOCK_DGRAM))
        name.bind = _bound
        return name


def _bound(path: str) -> socket.socket:
    # Its directories say who gets here; a worker may have become another user.
    return sockets.bound(path, socket.SOCK_DGRAM, mode=0o666)


def received(opened: Iterable[socket.socket], most: int) -> Iterator[tuple[socket.socket, bytes]]:
    """Yield what waits at sockets, and at which, so many messages at most."""
    for one in opened:
        with suppress(OSError):  # there is no more
            while most > 0:
                said = one.recv(MOST_BYTES + 1)
                most -= 1
                yield one, said
