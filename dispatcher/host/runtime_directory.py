"""The runtime directory of a process: it is recreated with its sockets when it is removed.

A logout removes `$XDG_RUNTIME_DIR` under processes that still run. Open connections survive that;
only the names have to be restored.
"""

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from dispatcher.errors import DispatcherError, cannot_use
from dispatcher.host.locks import FileLock
from dispatcher.times import Instant

#: Seconds between two looks: what was removed is restored within them.
LOOK_INTERVAL = 1.0


class Entry(Protocol):
    """A name in the runtime directory."""

    @property
    def path(self) -> str:
        """Its path."""

    @property
    def is_there(self) -> bool:
        """Whether it is still what its path leads to."""

    def restore(self) -> None:
        """Restore it. Raises OSError or a `DispatcherError`."""


class BoundSocket:
    """A socket bound to a path; another one is bound there when its file is gone."""

    def __init__(
        self,
        path: str,
        bind: Callable[[str], socket.socket],
        adopt: Callable[[socket.socket, socket.socket], None] | None = None,
    ) -> None:
        """`adopt` receives the new socket and the former one, and closes the latter in time."""
        self.path = path
        self.adopt = adopt or (lambda _, before: before.close())
        self.bind = bind
        self.socket = bind(path)
        self._file = _file_at(path)

    @property
    def is_there(self) -> bool:
        """Whether the file at the path is this socket's.

        A unix socket keeps the inode that it was bound to, also without a name: no other file has
        that inode while the socket is open.
        """
        return self._file is not None and _file_at(self.path) == self._file

    def restore(self) -> None:
        """Bind another socket, replacing what is at the path."""
        before, self.socket = self.socket, self.bind(self.path)
        self._file = _file_at(self.path)
        self.adopt(self.socket, before)


class Look(Struct, frozen=True):
    """Changes since the last look."""

    restored: tuple[str, ...] | None = None
    """The names that were missing, once all are restored."""
    lost: str | None = None
    """Why a missing name cannot be restored, at the first failure."""


_UNCHANGED = Look()


class RuntimeDirectory:
    """Restores the directory, the lock that keeps others out, and the entries."""

    def __init__(
        self,
        directory: Path,
        held: FileLock,
        *,
        lock_path: Path,
        lock: Callable[[], FileLock],
        state_dir: Path,
    ) -> None:
        """`held` is the lock of the file at `lock_path`; `lock` takes another, without waiting.

        Raises `HostTrouble` if the directory was removed since.
        """
        self._directory = directory
        self._held = held
        self._lock_path = lock_path
        self._lock = lock
        self._state_dir = state_dir
        try:
            self._intact = directory.stat()  # at the last look that found it so
        except OSError as error:
            raise cannot_use(f"cannot use {directory}", error, "let this user have it") from error
        self._resolved = directory.resolve()
        """Its path without links."""
        self._restored: list[str] = []
        self.due = Instant(0.0)
        """When to look again."""
        self.trouble: str | None = None
        """Why something is missing, None if nothing is."""

    @property
    def device(self) -> int:
        """The number of its filesystem."""
        return self._intact.st_dev

    def release(self) -> None:
        """Release the lock of the directory."""
        self._held.close()

    def look(self, entries: Iterable[Entry], *, at: Instant) -> Look:
        """Restore each missing entry; what fails is tried again at the next look.

        A directory that another process has locked meanwhile stays that one's until its end.
        """
        self.due = Instant(at + LOOK_INTERVAL)
        try:
            self._restore_directory()
        except (OSError, DispatcherError) as error:
            return self._failed(error)
        failure: OSError | DispatcherError | None = None
        for entry in entries:
            try:
                if not entry.is_there:
                    entry.restore()
                    self._restored.append(Path(entry.path).name)
            except (OSError, DispatcherError) as error:
                failure = failure or error
        if failure is not None:
            return self._failed(failure)
        if not self._restored and self.trouble is None:
            return _UNCHANGED
        restored, self._restored, self.trouble = tuple(self._restored), [], None
        return Look(restored=restored)

    def _failed(self, error: OSError | DispatcherError) -> Look:
        why = str(error)
        if isinstance(error, OSError):
            why = f"{error.filename or self._directory}: {error.strerror}"
        is_news, self.trouble = self.trouble is None, why
        return Look(lost=why) if is_news else _UNCHANGED

    def _restore_directory(self) -> None:
        """Restore the directory and its lock, if missing."""
        if self._held.is_at(self._lock_path):
            self._intact = self._directory.stat()
            return
        if not self._state_dir.is_dir():  # it may be the parent: an empty one would mislead
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._state_dir))
        self._make_directory()
        held = self._lock()
        self._held.close()
        self._held = held
        self._restored.append(self._lock_path.name)

    def _make_directory(self) -> None:
        """Create it with its former mode; one that exists stays as it is."""
        was = self._intact
        mode = stat.S_IMODE(was.st_mode)
        try:
            make(self._directory, mode)
        except FileExistsError:  # a dangling link, or a file
            if self._directory.resolve() != self._resolved:
                raise
            make(self._resolved, mode)
        for found in (self._directory.lstat(), self._directory.stat()):  # a link's owner decides
            if found.st_uid not in {os.geteuid(), was.st_uid}:
                why = f"made anew by user {found.st_uid}, and was user {was.st_uid}'s"
                raise PermissionError(errno.EPERM, why, str(self._directory))


def make(directory: Path, mode: int = 0o700) -> None:
    """Create a directory and its parents; one that exists stays as it is.

    It has its mode from the first, so that no link in its place gets it.

    Raises `HostTrouble` if another process removes it meanwhile; otherwise OSError, which names a
    dangling link.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        mask = os.umask(0o777 & ~mode)
        try:
            directory.mkdir(mode, exist_ok=True)
        finally:
            os.umask(mask)
    except (FileExistsError, FileNotFoundError) as error:
        place = Path(error.filename)
        if place.is_symlink() and not place.exists():
            why = f"{place} is a link to {place.readlink()}, which is missing"
            raise FileExistsError(errno.EEXIST, why, str(directory)) from error
        if isinstance(error, FileNotFoundError) and place.parent.is_dir():
            raise  # as in /proc
        if isinstance(error, FileExistsError) and os.path.lexists(place):
            number = errno.EEXIST if place == directory else errno.ENOTDIR
            raise OSError(number, os.strerror(number), str(directory)) from error
        missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise cannot_use(f"cannot make {directory}", missing, "") from error


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
