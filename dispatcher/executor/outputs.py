"""The files that runs write to, and the lock that tells whether anyone still does.

The lock belongs to the open description that a run's processes share: the kernel drops it with
the last of them, whatever became of their environment, session and parents.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress

from dispatcher import output_files

#: Bytes of the end of the output that are kept with the exit: a traceback, not a log.
TAIL_BYTES = 4096


#: Empty files kept for later runs; more are of no use, as each start takes one.
MOST_EMPTY = 64


#: Opens nothing that waits (a FIFO), and nothing by a link.
_NEVER_WAITS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class OutputLocked(Exception):
    """Processes of another run write to this file; start nothing beside them."""


class Outputs:
    """Opens, probes and reads output files by path.

    A run that wrote nothing leaves no file: it is given to a later run under its new name, unless
    somebody still has it open. That is cheaper than a fresh one, up to forty times where many files
    were deleted (ext4 steps over each inode that was deleted recently), and it is what people who
    look into the directory expect.
    """

    def __init__(self) -> None:
        self._empty: list[str] = []

    def open(self, path: str) -> int:
        """Return a locked descriptor that appends to `path`.

        Raises OutputLocked when a run has it, OSError when it is no regular file or cannot be
        opened.
        """
        if self._empty:
            with suppress(OSError):  # somebody tidied up
                os.rename(empty := self._empty.pop(), path)
                descriptor = _opened(path)
                if not _is_open_elsewhere(descriptor):
                    return self._lock(descriptor)
                os.close(descriptor)
                os.rename(path, empty)  # it stays with whoever reads it, or may yet write to it
        return self._lock(_opened(path, os.O_CREAT))

    def end(self, path: str) -> str:
        """Return the output's tail once its run is gone; a file that stayed empty is kept."""
        tail = self.tail(path)
        if not tail and len(self._empty) < MOST_EMPTY:
            with suppress(OSError, OutputLocked):
                # Whoever still has it open would write into another run's output.
                os.close(self._lock(os.open(path, os.O_WRONLY | _NEVER_WAITS)))
                self._empty.append(path)
        return tail

    def is_locked(self, path: str) -> bool:
        """Say whether a run's processes still have `path` open; a missing file is no run.

        Raises OSError when nobody can tell.
        """
        return output_files.is_held(path)

    def tail(self, path: str) -> str:
        """Return the end of the output as text that any database takes."""
        with suppress(OSError):
            if size := os.stat(path).st_size:
                descriptor = os.open(path, os.O_RDONLY | _NEVER_WAITS)
                try:
                    end = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
                finally:
                    os.close(descriptor)
                return end.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        return ""

    def identity(self, path: str) -> tuple[int, int] | None:
        """Return device and inode of `path`; None when it is not there."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return (found.st_dev, found.st_ino)

    def _lock(self, descriptor: int) -> int:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputLocked from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _opened(path: str, create: int = 0) -> int:
    """Return a descriptor that appends to a regular file. Raises OSError."""
    descriptor = os.open(path, create | os.O_WRONLY | os.O_APPEND | _NEVER_WAITS, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)  # its program expects it to wait
    return descriptor


def _is_open_elsewhere(descriptor: int) -> bool:
    """Whether anybody else has a file open, for whatever purpose, or nobody can tell.

    A write lease is granted only to the one who has it open: fcntl(2). Its name is new, so that
    nobody opens it meanwhile, which would be told by SIGIO.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False
