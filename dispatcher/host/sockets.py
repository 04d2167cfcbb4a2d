"""Bind unix sockets, replacing what is there; peer credentials."""

import os
import socket
import struct
from contextlib import suppress

#: Bytes of a path: what `sockaddr_un` holds, without its NUL.
MAX_PATH = 107

#: Pid, uid and gid of a peer.
_CREDENTIALS = struct.Struct("3i")


def listen(path: str, *, backlog: int) -> socket.socket:
    """Return a non-blocking socket that listens at a path, for this user only. Raises OSError.

    It replaces whatever is there: safe only under the lock of the directory.
    """
    listener = bound(path, socket.SOCK_STREAM, mode=0o600)
    listener.listen(backlog)
    return listener


def bound(path: str, kind: socket.SocketKind, *, mode: int) -> socket.socket:
    """Return a non-blocking socket at a path, which has this mode from the first. Raises OSError.

    It replaces whatever is there.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - the caller's path as it is
    opened = unbound(kind)
    umask = os.umask(0o777 & ~mode)
    try:
        opened.bind(path)
    except OSError:
        opened.close()
        raise
    finally:
        os.umask(umask)
    return opened


def unbound(kind: socket.SocketKind) -> socket.socket:
    """Return a non-blocking socket without a name."""
    opened = socket.socket(socket.AF_UNIX, kind)
    opened.setblocking(False)
    return opened


def credentials(connection: socket.socket) -> tuple[int, int]:
    """Return the pid and the uid that a peer had when it connected, as the kernel recorded them."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return pid, uid
