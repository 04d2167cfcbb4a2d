"""The runtime directory of a process, and its sockets there: made again when they are removed.

A logout removes `$XDG_RUNTIME_DIR` under processes that go on. Connections that stand are not
touched by it; only the names have to come back.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dispatcher.errors import DispatcherError, cannot_use
from dispatcher.host.locks import FileLock
from dispatcher.times import Instant

#: Seconds between two looks: what was removed is back within so many.
LOOK_INTERVAL = 1.0


class Entry(Protocol):
    """Something in the runtime directory that has a name."""

    @property
    def path(self) -> str:
        """Where it is."""

    @property
    def is_there(self) -> bool:
        """Whether it is still what is found at its path."""

    def make_again(self) -> None:
        """Put it back. Raises OSError or a `DispatcherError`."""


class BoundSocket:
    """A socket bound to a path; when its file is gone, another one is bound to the same path."""

    def __init__(
        self,
        path: str,
        bind: Callable[[str], socket.socket],
        adopt: Callable[[socket.socket, socket.socket], None] | None = None,
    ) -> None:
        """`adopt` receives the new socket and the one before, which it is to close in its time."""
        self.path = path
        self.adopt = adopt or (lambda _, before: before.close())
        self.bind = bind
        self.socket = bind(path)
        self._file = _file_at(path)

    @property
    def is_there(self) -> bool:
        """Whether the file at the path is this socket's: no other has its inode while it is open.

        A unix socket holds the inode that it was bound to, also when that has no name any more.
        """
        return self._file is not None and _file_at(self.path) == self._file

    def make_again(self) -> None:
        """Bind another socket, in the place of whatever is at the path."""
        before, self.socket = self.socket, self.bind(self.path)
        self._file = _file_at(self.path)
        self.adopt(self.socket, before)


@dataclass(frozen=True, slots=True)
class Look:
    """What has changed since the last look."""

    restored: tuple[str, ...] | None = None
    """The names of what was missing, once all of it is there again."""
    lost: str | None = None
    """Why something that is missing cannot be made again, when that is found first."""


_AS_BEFORE = Look()


class RuntimeDirectory:
    """Looks after the directory, the lock that keeps others out of it, and what is in it."""

    def __init__(
        self,
        directory: Path,
        held: FileLock,
        *,
        lock_path: Path,
        lock: Callable[[], FileLock],
        state_dir: Path,
    ) -> None:
        """`held` is the lock of the file at `lock_path`, and `lock` takes another; it never waits.

        Raises `HostTrouble` where the directory was removed since.
        """
        self._directory = directory
        self._held = held
        self._lock_path = lock_path
        self._lock = lock
        self._state_dir = state_dir
        try:
            self._was = directory.stat()
        except OSError as error:
            raise cannot_use(f"cannot use {directory}", error, "let this user have it") from error
        """The directory when it was last seen as it should be."""
        self._resolved = directory.resolve()
        """Where it is, whatever links lead there."""
        self._restored: list[str] = []
        self.due = Instant(0.0)
        """When to look again."""
        self.trouble: str | None = None
        """Why something is missing; None: nothing is."""

    @property
    def device(self) -> int:
        """The number of the filesystem that it is on."""
        return self._was.st_dev

    def release(self) -> None:
        """Let others have the directory."""
        self._held.close()

    def look(self, entries: Iterable[Entry], *, at: Instant) -> Look:
        """Make again what is missing; what cannot be made is tried again at the next look.

        The rest does not wait for it.

        Nothing is taken from others: where another process has locked the directory meanwhile, this
        one waits for its end.
        """
        self.due = Instant(at + LOOK_INTERVAL)
        try:
            self._take()
        except (OSError, DispatcherError) as error:
            return self._failed(error)
        failure: OSError | DispatcherError | None = None
        for entry in entries:
            try:
                if not entry.is_there:
                    entry.make_again()
                    self._restored.append(Path(entry.path).name)
            except (OSError, DispatcherError) as error:
                failure = failure or error
        if failure is not None:
            return self._failed(failure)
        if not self._restored and self.trouble is None:
            return _AS_BEFORE
        restored, self._restored, self.trouble = tuple(self._restored), [], None
        return Look(restored=restored)

    def _failed(self, error: OSError | DispatcherError) -> Look:
        why = str(error)
        if isinstance(error, OSError):
            why = f"{error.filename or self._directory}: {error.strerror}"
        is_news, self.trouble = self.trouble is None, why
        return Look(lost=why) if is_news else _AS_BEFORE

    def _take(self) -> None:
        """Have the directory, and hold the lock that others look at."""
        if self._held.is_at(self._lock_path):
            self._was = self._directory.stat()
            return
        if not self._state_dir.is_dir():  # it may be above: an empty one in its place misleads
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._state_dir))
        self._make_directory()
        held = self._lock()
        self._held.close()
        self._held = held
        self._restored.append(self._lock_path.name)

    def _make_directory(self) -> None:
        """Make it as it was; if somebody did before us, it stays as it is."""
        was = self._was
        mode = stat.S_IMODE(was.st_mode)
        try:
            make(self._directory, mode)
        except FileExistsError:  # by a link that leads to nothing now, or by a file
            if self._directory.resolve() != self._resolved:
                raise
            make(self._resolved, mode)
        for found in (self._directory.lstat(), self._directory.stat()):  # a link's owner decides
            if found.st_uid not in {os.geteuid(), was.st_uid}:
                why = f"made anew by user {found.st_uid}, and was user {was.st_uid}'s"
                raise PermissionError(errno.EPERM, why, str(self._directory))


def make(directory: Path, mode: int = 0o700) -> None:
    """Make a directory, and those above it; one that is there stays as it is.

    The mode is there from the first, so that no link in its place gets it.

    Raises `HostTrouble` where somebody removes what is made; otherwise OSError, which names a link
    that leads to nothing.
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
            raise  # as in /proc, where nothing can be made
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
