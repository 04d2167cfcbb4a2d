"""The client's side of the daemon's control socket: one JSON object a line each way.

Where it is follows from the environment (`$XDG_RUNTIME_DIR`), and a client's may be another than
the daemon's: so the daemon says it in the state directory, which both know. It names that directory
by device and inode, so that clients of a copy do not take the original's daemon for theirs.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dispatcher.complaints import UNREADABLE
from dispatcher.config.config import Config
from dispatcher.config.places import is_sendable
from dispatcher.daemon_report import DaemonReport
from dispatcher.errors import ConfigError, DispatcherError
from dispatcher.host import files, locks, owner, sockets
from dispatcher.host.node import known_node_id

if TYPE_CHECKING:
    from socket import socket

T = TypeVar("T")

#: Seconds that a daemon gets to take a request, and to answer it.
TIMEOUT = 0.5

#: Seconds that it gets to commit what a worker says, which waits for the disk.
COMMIT_TIMEOUT = 5.0

#: Seconds that it gets to read its configuration: its turn may wait for the store before.
RELOAD_TIMEOUT = 5.0


class NotOurs(DispatcherError):
    """A daemon of another user answers that user alone: report whose it is."""


def announce(config: Config) -> OSError | None:
    """Write, atomically, into the state directory where the daemon listens; return what failed.

    Then nothing is said there: clients look where their own environment says.
    """
    file = _announcement(config)
    said = f"{_directory(config)} {config.control_socket}\n"
    try:
        if _said(config) != said:  # a full disk would not take it
            files.replace(file, said)
    except OSError as error:
        with suppress(OSError):  # it misleads
            file.unlink()
        return error
    return None


def find(config: Config) -> Path:
    """Return where the last daemon of this very state directory listens, else where one would."""
    directory, _, socket = _said(config).removesuffix("\n").partition(" ")
    said = is_sendable(socket) and len(socket.encode()) <= sockets.MAX_PATH
    if said and socket.startswith("/") and directory == _directory(config):
        return Path(socket)
    return config.control_socket


def _said(config: Config) -> str:
    """Return what the file says; "" of anything else in its place: no client waits for it."""
    with suppress(OSError, ValueError):
        return files.read(_announcement(config)).decode()
    return ""


def _directory(config: Config) -> str:
    """Return what no copy of the state directory has, and every path to it and mount of it."""
    found = config.state_dir.stat()
    return f"{found.st_dev}:{found.st_ino}"


def _announcement(config: Config) -> Path:
    return config.state_dir / "control-socket"


def wake(path: Path) -> None:
    """Tell a daemon, if one runs, that there is something to do. Never fails, hardly waits.

    A daemon that misses it looks by itself within its poll interval.
    """
    with suppress(OSError):
        # Much cheaper to see than to connect to.
        if path.exists():
            with _connect(path) as connection:
                connection.sendall(b'{"op":"wake"}\n')


def status(path: Path) -> DaemonReport | None:
    """Return a running daemon's report about itself, None if none runs.

    Raises TimeoutError when one runs and does not answer, and `NotOurs`.
    """
    return _ask(path, b'{"op":"status"}\n', DaemonReport, within=TIMEOUT)


def report(config: Config) -> DaemonReport | None:
    """Return the report of this state directory's running daemon, None if none runs.

    Another one may have taken the runtime directory. Raises what `status` does.
    """
    found, me = status(find(config)), None
    with suppress(ConfigError):  # damaged, or not ours to read: others report that
        me = known_node_id(config.state_dir)
    return None if found is not None and me not in {None, found.node} else found


def why_unreachable(config: Config) -> str | None:
    """Return why a daemon that lives cannot be asked; None: none lives, as far as can be seen.

    For when `report` or `reload` found none: it is about to listen, at first or again.
    """
    pid = locks.holder(config.state_dir / locks.DAEMON_LOCK)
    if pid is None:
        return None
    socket = find(config)
    if not socket.parent.is_dir():
        told = f"the runtime directory {socket.parent} was removed"
        return (
            f"{told}; the daemon (pid {pid}) lives and makes it again; if it cannot, runtime.lost"
            " in its log gives the reason"
        )
    told = f"the daemon (pid {pid}) lives and does not listen at {socket}"
    return f"{told}; it is starting, or its socket was removed: see runtime.lost in its log"


def reload(path: Path) -> dict[str, Any] | None:
    """Let a running daemon read its file again and return its answer, None if none runs.

    Raises TimeoutError when one runs and does not answer, and `NotOurs`.
    """
    return _ask(path, b'{"op":"reload"}\n', dict[str, Any], within=RELOAD_TIMEOUT)


def say(path: Path, line: bytes) -> dict[str, Any] | None:
    """Return a daemon's answer to what a worker says; None: none answers, in time or to us."""
    try:
        return _answer(path, line + b"\n", dict[str, Any], within=COMMIT_TIMEOUT)
    except (PermissionError, TimeoutError):
        return None


def _ask(path: Path, request: bytes, kind: type[T], *, within: float) -> T | None:
    try:
        return _answer(path, request, kind, within=within)
    except (PermissionError, TimeoutError) as error:
        if (whose := owner.of_another(path)) is not None and os.geteuid() != 0:
            raise NotOurs(f"a daemon answers its own user alone; {whose}") from error
        if isinstance(error, PermissionError):
            return None
        raise


def _answer(path: Path, request: bytes, kind: type[T], *, within: float) -> T | None:
    try:
        with _connect(path) as connection:
            connection.settimeout(within)
            connection.sendall(request)
            line = connection.makefile("rb").readline()
    except (BlockingIOError, ConnectionResetError, BrokenPipeError, TimeoutError) as error:
        raise TimeoutError(f"{path}: no answer") from error
    except PermissionError:
        raise
    except OSError:
        return None
    if not line.endswith(b"\n"):
        raise TimeoutError(f"{path}: no answer")
    try:
        return msgspec.json.decode(line, type=kind)
    except UNREADABLE as error:  # it is somebody else who listens there
        raise TimeoutError(f"{path}: no answer of a daemon") from error


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
