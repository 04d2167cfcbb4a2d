"""The files that runs write to, and the lock that shows whether anyone still does.

The lock belongs to the open description that a run's processes share: the kernel drops it with
the last of them, whatever became of their environment, session and parents.
"""

import errno
import fcntl
import os
import stat
from collections import deque
from contextlib import suppress
from pathlib import Path

from dispatcher.host import output_files

#: Bytes of the output's end that are kept with the exit: a traceback, not a log.
TAIL_BYTES = 4096

#: Empty files kept open for later runs; more would not be used, as each start takes one.
MOST_EMPTY = 64

#: Append to the file; do not wait for a FIFO's reader, and follow no link.
_APPENDS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

#: Times that an empty file is found open elsewhere before it is left alone. A child that is about
#: to exec has it open too, and on a busy host dozens of other starts happen meanwhile.
MOST_TRIES = 50


class OutputLocked(Exception):
    """Processes of another run write to the file named here: do not start this one."""


class OutputFile:
    """A run's output by our own descriptor, whatever becomes of its name, mode and lock."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.truncated = 0
        """Bytes that its writers removed, as far as two looks at its size show."""
        self.size = 0
        """Bytes, when it was last measured."""
        self.disk = 0
        """Bytes of disk, when it was last measured."""
        self.tries = 0
        """How often a later run could not get it, as it was open elsewhere."""
        self._found: os.stat_result | None = None
        """What it was when it was last measured."""

    def measure(self) -> int:
        """Measure it; return its size in bytes."""
        found = os.fstat(self.descriptor)
        if found.st_size < self.size:
            self.truncated += self.size
        self.size, self.disk = found.st_size, found.st_blocks * 512
        self._found = found
        return self.size

    @property
    def is_fresh(self) -> bool:
        """Whether it was empty, and had no other name, when it was last measured."""
        return self._found is not None and _is_fresh(self._found)

    def is_fresh_at(self, path: str) -> bool:
        """Whether a path leads to this file, and it is still fresh. Raises OSError."""
        there = os.lstat(path)
        return self._found is not None and os.path.samestat(there, self._found) and _is_fresh(there)

    def trim(self) -> None:
        """Free what was reserved behind its end, once nobody writes to it."""
        os.ftruncate(self.descriptor, self.measure())

    def tail(self) -> str:
        """Return its end as text without NUL, which some databases refuse."""
        if not (size := self.measure()):
            return ""
        end = os.pread(self.descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
        return end.decode(errors="replace").replace("\0", "")

    def close(self) -> None:
        os.close(self.descriptor)


class OutputFiles:
    """Opens and probes output files; keeps those of the runs that were started here.

    A run that wrote nothing leaves no file: a later run gets it under its own name, unless somebody
    still has it open. Our own descriptor, which no process of a run ever had, stays open for it.
    That is cheaper than a fresh file, up to forty times where many files were
    deleted (ext4 steps over each inode that was deleted recently), and keeps the directory free of
    empty files.
    """

    def __init__(self) -> None:
        self._empty: deque[OutputFile] = deque()
        self._files: dict[str, OutputFile] = {}

    def open(self, path: str) -> int:
        """Return a locked descriptor that appends to `path`, and keep one of our own.

        Raises OutputLocked if a run has it, OSError if it cannot be opened as a regular file.
        """
        if self._empty and (reused := self._reused(path)) is not None:
            return reused
        descriptor = _locked(_made(path), path)
        try:
            own = _opened_again(descriptor, os.O_RDWR)
        except OSError:
            os.close(descriptor)
            raise
        self._files[path] = OutputFile(path, own)
        return descriptor

    @property
    def live(self) -> int:
        """How many runs that were started here are not gone."""
        return len(self._files)

    def file(self, path: str) -> OutputFile:
        """Return the output of a run that was started here. Raises KeyError for any other."""
        return self._files[path]

    def truncated(self, path: str) -> int:
        """Return how many bytes a run that was started here removed of its output."""
        file = self._files.get(path)
        return 0 if file is None else file.truncated

    def close(self, path: str) -> None:
        """Close our own descriptor of an output, unless it is kept for a later run."""
        file = self._files.pop(path, None)
        if file is not None and file not in self._empty:
            file.close()

    def release(self) -> None:
        """Close all our own descriptors."""
        for path in list(self._files):
            self.close(path)
        while self._empty:
            self._empty.popleft().close()

    def end(self, path: str) -> str:
        """Return the output's tail once its run is gone; a file that stayed empty is kept."""
        tail = self.tail(path)
        file = self._files.get(path)
        if file is not None and file.is_fresh and len(self._empty) < MOST_EMPTY:
            self._empty.append(file)  # its reuse tests whether it is open elsewhere
        return tail

    def _reused(self, path: str) -> int | None:
        """Return a descriptor of an empty file that no other process has, under its new name."""
        empty = self._empty.popleft()
        with suppress(OSError):  # it was removed
            os.rename(empty.path, path)
            if (descriptor := _taken(empty, path)) is not None:
                self._files[path] = OutputFile(path, empty.descriptor)
                return descriptor
            os.rename(path, empty.path)  # it stays with the process that has it open
            empty.tries += 1
            if empty.tries < MOST_TRIES:
                self._empty.append(empty)
                return None
        empty.close()
        return None

    def is_locked(self, path: str) -> bool:
        """Return whether a run's processes still have `path` open; nobody has a missing file.

        Raises OSError if that cannot be tested.
        """
        return output_files.is_held(path)

    def tail(self, path: str) -> str:
        """Return the end of an output as text without NUL; empty if it cannot be read."""
        with suppress(OSError):
            if file := self._files.get(path):
                return file.tail()
            file = OutputFile(path, output_files.opened(path))
            try:
                return file.tail()
            finally:
                file.close()
        return ""

    def identity(self, path: str) -> tuple[int, int] | None:
        """Return device and inode of `path`; None if there is no such file."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return (found.st_dev, found.st_ino)


def _made(path: str) -> int:
    """Return a descriptor of an output; its directory is made again if it was removed."""
    try:
        return _opened(path, create=True)
    except FileNotFoundError:
        directory = Path(path).parent
        if not directory.parent.is_dir():  # an empty state directory in its place would mislead
            raise
        directory.mkdir(mode=0o700, exist_ok=True)
        return _opened(path, create=True)


def _opened(path: str, *, create: bool = False) -> int:
    """Return a descriptor that appends to a regular file. Raises OSError."""
    descriptor = os.open(path, _APPENDS | (os.O_CREAT if create else 0), 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)  # its program expects it to wait
    return descriptor


def _taken(empty: OutputFile, path: str) -> int | None:
    """Return a locked descriptor of a file that has this name now; None if it is not to be had."""
    with suppress(OSError, OutputLocked):
        if empty.is_fresh_at(path) and not _is_open_elsewhere(empty.descriptor):
            return _locked(_opened_again(empty.descriptor, os.O_WRONLY | os.O_APPEND), path)
    return None


def _opened_again(descriptor: int, flags: int) -> int:
    """Open a file again by its inode: its name may be another's, and a copy would share a lock."""
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)


def _locked(descriptor: int, path: str) -> int:
    """Return a descriptor, locked. Raises OutputLocked and OSError, and then closes it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise OutputLocked(path) from None
        raise
    return descriptor


def _is_fresh(found: os.stat_result) -> bool:
    """Whether a file is empty, and has no other name."""
    return (found.st_size, found.st_nlink) == (0, 1)


def _is_open_elsewhere(descriptor: int) -> bool:
    """Whether another open description of a file exists, or that cannot be tested.

    A write lease is granted only to the sole opener: fcntl(2). The file's name is new, so nobody
    opens it meanwhile, which would raise SIGIO.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False
