"""The client's side of the daemon's control socket: one JSON object a line each way.

Of an embedded store it is also the bell: a change that gives the daemon work wakes it there.

A client's environment (`$XDG_RUNTIME_DIR`) may lead to another socket than the daemon's. The daemon
therefore writes its address into the state directory, with that directory's device and inode: in a
copy of the directory they differ, so that no client takes the original's daemon for the copy's.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from dispatcher.complaints import UNREADABLE
from dispatcher.config.config import Config
from dispatcher.config.places import is_sendable
from dispatcher.daemon_report import DaemonReport
from dispatcher.errors import ConfigError, DispatcherError
from dispatcher.host import files, locks, owner, sockets
from dispatcher.host.node import known_node_id
from dispatcher.host.utf8 import as_utf8

if TYPE_CHECKING:
    from socket import socket

T = TypeVar("T")

#: Seconds that a daemon has to accept a request, and to answer it. Its turn may wait for the store
#: and its disk, and for the other processes of a busy host.
TIMEOUT = 5


class ForeignDaemon(DispatcherError):
    """The daemon is another user's, and answers that user alone: report whose it is."""


def announce(config: Config) -> OSError | None:
    """Write the daemon's address into the state directory; return the error, if that fails.

    Without an address there, clients use their own environment's.
    """
    file = _address_file(config)
    address = f"{_directory(config)} {config.control_socket}\n"
    try:
        if _announced(config) != address:  # a full disk would not take it
            files.replace(file, address)
    except OSError as error:
        with suppress(OSError):  # it misleads
            file.unlink()
        return error
    return None


def find(config: Config) -> Path:
    """Return the address of this state directory's last daemon, or where one would listen."""
    directory, _, socket = _announced(config).removesuffix("\n").partition(" ")
    is_valid = is_sendable(socket) and len(socket.encode()) <= sockets.MAX_PATH
    if is_valid and socket.startswith("/") and directory == _directory(config):
        return Path(socket)
    return config.control_socket


def _announced(config: Config) -> str:
    """Return the content of the address file, "" if it is not a readable file."""
    with suppress(OSError, ValueError):
        return files.read(_address_file(config)).decode()
    return ""


def _directory(config: Config) -> str:
    """Return the identity of the state directory: the same for every path, another for a copy."""
    found = config.state_dir.stat()
    return f"{found.st_dev}:{found.st_ino}"


def _address_file(config: Config) -> Path:
    return config.state_dir / "control-socket"


def wake(config: Config) -> bool:
    """Wake the daemon, if one runs, to look for work; return whether one listens.

    Never fails, never waits. A daemon that misses it looks by itself within its poll interval.
    """
    path = find(config)
    try:
        if not path.exists():  # much cheaper than to connect
            return False
        with _connect(path, 0) as connection:
            connection.sendall(b'{"op":"wake"}\n')
    except BlockingIOError:  # its queue is full
        return True
    except OSError:
        return False
    return True


class ControlBell:
    """The bell of an embedded store: a message to the control socket of its one daemon."""

    statement = ""
    heard = None
    failure = None

    def __init__(self, config: Config) -> None:
        self._config = config

    def ring(self) -> None:
        wake(self._config)

    def fileno(self) -> None: ...

    def read(self) -> None: ...

    def close(self) -> None: ...


def is_running(config: Config) -> bool:
    """Return whether a daemon of this state directory lives, as far as can be seen."""
    return locks.holder_of(config.state_dir / locks.DAEMON_LOCK) is not None or wake(config)


def status(path: Path) -> DaemonReport | None:
    """Return a running daemon's report about itself, None if none runs.

    Raises TimeoutError when one runs and does not answer, and `ForeignDaemon`.
    """
    return _request(path, b'{"op":"status"}\n', DaemonReport)


def report(config: Config) -> DaemonReport | None:
    """Return the report of this state directory's running daemon, None if none runs.

    The socket may be another daemon's, which took the runtime directory. Raises as `status` does.
    """
    found, me = status(find(config)), None
    with suppress(ConfigError):  # damaged or unreadable: reported elsewhere
        me = known_node_id(config.state_dir)
    return None if found is not None and me not in {None, found.node} else found


def why_unreachable(config: Config) -> str | None:
    """Return why a living daemon does not listen; None: none lives, as far as can be seen.

    Call it when `report` or `reload` found none: the daemon may be about to listen.
    """
    pid = locks.holder_of(config.state_dir / locks.DAEMON_LOCK)
    if pid is None:
        return None
    socket = find(config)
    if not socket.parent.is_dir():
        problem = f"the runtime directory {socket.parent} was removed"
        return (
            f"{problem}; the daemon (pid {pid}) lives and recreates it; if it cannot,"
            " runtime.lost in its log gives the reason"
        )
    problem = f"the daemon (pid {pid}) lives and does not listen at {socket}"
    return f"{problem}; it is starting, or its socket was removed: see runtime.lost in its log"


def reload(config: Config) -> dict[str, Any] | None:
    """Let the running daemon read its file again, if it is this configuration's.

    Return its answer, None if none runs. Raises TimeoutError when one runs and does not answer, and
    `ForeignDaemon`.
    """
    request = {"op": "reload", "file": config.file and as_utf8(os.path.realpath(config.file))}
    return _request(find(config), msgspec.json.encode(request) + b"\n", dict[str, Any])


def stop(config: Config, how: Literal["leave", "at_once"] | None) -> dict[str, Any] | None:
    """Let the running daemon stop, as configured without a `how`.

    Return its answer, None if none runs. Raises as `reload` does.
    """
    request = msgspec.json.encode({"op": "stop", "how": how})
    return _request(find(config), request + b"\n", dict[str, Any])


def send_request(path: Path, line: bytes) -> dict[str, Any] | None:
    """Return the daemon's answer to a worker's request; None: none in time, or not for us."""
    try:
        return _exchange(path, line + b"\n", dict[str, Any])
    except (PermissionError, TimeoutError):
        return None


def _request(path: Path, request: bytes, kind: type[T]) -> T | None:
    try:
        return _exchange(path, request, kind)
    except (PermissionError, TimeoutError) as error:
        if (whose := owner.remedy_if_foreign(path)) is not None and os.geteuid() != 0:
            raise ForeignDaemon(f"a daemon answers its own user alone; {whose}") from error
        if isinstance(error, PermissionError):
            return None
        raise


def _exchange(path: Path, request: bytes, kind: type[T]) -> T | None:
    try:
        with _connect(path, TIMEOUT) as connection:
            connection.sendall(request)
            line = connection.makefile("rb").readline()
    except (BlockingIOError, ConnectionResetError, BrokenPipeError, TimeoutError) as error:
        raise TimeoutError(f"{path}: no answer") from error
    except PermissionError:
        raise
    except OSError as error:
        if error.errno == errno.ENOTCONN:  # a stopped and continued connect(2) in a full queue
            raise TimeoutError(f"{path}: no answer") from error
        return None
    if not line.endswith(b"\n"):
        raise TimeoutError(f"{path}: no answer")
    try:
        return msgspec.json.decode(line, type=kind)
    except UNREADABLE as error:  # another program listens there
        raise TimeoutError(f"{path}: no answer of a daemon") from error


def _connect(path: Path, within: int) -> socket:
    import socket  # noqa: PLC0415 - most submits meet no daemon or leave before they need it

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Only a blocking connect(2) waits, for so long, for room in the daemon's queue: socket(7).
        connection.setblocking(within > 0)
        longest = struct.pack("@ll", within, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, longest)
        connection.connect(str(path))
        connection.settimeout(within)
    except BaseException:
        connection.close()
        raise
    return connection
