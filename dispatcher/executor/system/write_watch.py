"""Waking up at the first write to a quiet file: inotify(7), once for each file and watch."""

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


class WriteWatch:
    """Reports which of the watched files were written to."""

    def __init__(self) -> None:
        self.descriptor: int = _libc.inotify_init1(_NEW)
        """Readable after a write; negative if the host has none left: nothing is watched then."""

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def add(self, path: str) -> int | None:
        """Watch a file for its next write; return the watch's number, None if that failed."""
        number: int = _libc.inotify_add_watch(self.descriptor, os.fsencode(path), _FIRST_WRITE)
        return number if number >= 0 else None

    def remove(self, number: int) -> None:
        """End a watch, whether its file was written to or not."""
        _libc.inotify_rm_watch(self.descriptor, number)

    def read(self) -> list[int]:
        """Return the numbers of the watches that have ended, by a write or by `remove`."""
        try:
            return [event[0] for event in _EVENT.iter_unpack(os.read(self.descriptor, 1 << 16))]
        except BlockingIOError:
            return []
