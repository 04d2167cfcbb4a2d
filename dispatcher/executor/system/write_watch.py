"""Being woken by the first write to a file that was quiet: inotify(7), once a file and look."""

from __future__ import annotations

import ctypes
import os
import struct

#: IN_CLOEXEC | IN_NONBLOCK; IN_MODIFY | IN_ONESHOT: sys/inotify.h.
_NEW = os.O_CLOEXEC | os.O_NONBLOCK
_FIRST_WRITE = 0x00000002 | 0x80000000

#: Watch, mask, cookie, length of a name: a file that is watched itself has none.
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None)


class Growth:
    """Tells which of the files that it was asked about were written to since."""

    def __init__(self) -> None:
        self.descriptor: int = _libc.inotify_init1(_NEW)
        """To wait on; below 0 when the host has none to give: nothing is told then."""

    def close(self) -> None:
        """Give the descriptor back."""
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def ask(self, path: str) -> int | None:
        """Ask to be told of the next write; return the question's number, None if it cannot be."""
        number: int = _libc.inotify_add_watch(self.descriptor, os.fsencode(path), _FIRST_WRITE)
        return number if number >= 0 else None

    def withdraw(self, number: int) -> None:
        """Take a question back, whether it was answered or not."""
        _libc.inotify_rm_watch(self.descriptor, number)

    def answers(self) -> list[int]:
        """Return the numbers of the questions that were answered, and of those withdrawn."""
        try:
            return [event[0] for event in _EVENT.iter_unpack(os.read(self.descriptor, 1 << 16))]
        except BlockingIOError:
            return []
