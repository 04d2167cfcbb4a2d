"""The files that runs write to, and the lock that tells whether anyone still does.

The lock belongs to the open description that a run's processes share: the kernel drops it with
the last of them, whatever became of their environment, session and parents.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from dispatcher import output_files

#: Bytes of the end of the output that are kept with the exit: a traceback, not a log.
TAIL_BYTES = 4096


#: Empty files kept for later runs; more are of no use, as each start takes one.
MOST_EMPTY = 64


class OutputLocked(Exception):
    """Processes of another run write to this file; start nothing beside them."""


class Outputs:
    """Opens, probes and reads output files by path.

    A run that wrote nothing leaves no file: it is given to a later run under its new name. That is
    cheaper than a fresh one, up to forty times where many files were deleted (ext4 steps over each
    inode that was deleted recently), and it is what people who look into the directory expect.
    """

    def __init__(self) -> None:
        self._empty: list[str] = []

    def open(self, path: str) -> int:
        """Return a locked descriptor that appends to `path`; OutputLocked when one exists."""
        if self._empty:
            with suppress(OSError):  # somebody tidied up
                os.rename(self._empty.pop(), path)
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        return self._lock(os.open(path, flags, 0o600))

    def end(self, path: str) -> str:
        """Return the output's tail once its run is gone; a file that stayed empty is kept."""
        tail = self.tail(path)
        if not tail and len(self._empty) < MOST_EMPTY:
            with suppress(OSError, OutputLocked):
                # Whoever still has it open would write into another run's output.
                flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK
                os.close(self._lock(os.open(path, flags)))
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
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
