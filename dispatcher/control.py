"""The client's side of the daemon's control socket: one JSON object a line each way."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from socket import socket

#: Seconds that a daemon gets to take a request, and to answer it.
TIMEOUT = 0.5


def wake(path: Path) -> None:
    """Tell a daemon, if one runs, that there is something to do. Never fails, hardly waits.

    A daemon that misses it looks by itself within its poll interval.
    """
    with suppress(OSError):
        # Much cheaper to see than to connect to.
        if path.exists():
            with _connect(path) as connection:
                connection.sendall(b'{"op":"wake"}\n')


def status(path: Path) -> dict[str, Any] | None:
    """Return what a running daemon says of itself, None if none runs.

    Raises TimeoutError when one runs and does not answer.
    """
    try:
        with _connect(path) as connection:
            connection.sendall(b'{"op":"status"}\n')
            line = connection.makefile("rb").readline()
    except (BlockingIOError, ConnectionResetError, BrokenPipeError, TimeoutError) as error:
        raise TimeoutError(f"{path}: no answer") from error
    except OSError:
        return None
    if not line.endswith(b"\n"):
        raise TimeoutError(f"{path}: no answer")
    return msgspec.json.decode(line, type=dict[str, Any])


def _connect(path: Path) -> socket:
    import socket  # noqa: PLC0415 - most submits meet no daemon or leave before they need it

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(TIMEOUT)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection
