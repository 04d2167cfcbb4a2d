"""Keeping output files within their budgets: the oldest bytes are punched out, offsets stay valid.

The kernel writes the files, so a file may exceed its budget by what is written between two looks.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from dataclasses import dataclass

from dispatcher import wire
from dispatcher.executor.log import Log
from dispatcher.executor.run import NEVER
from dispatcher.times import Instant

#: Seconds between two looks at a file that grows, and at one that does not.
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

#: Part of a budget by which a file must grow between two looks to be looked at often.
FAST = 16

#: Bytes punched out at a time: bounds how long a flood can keep the loop.
MOST_PUNCHED = 1 << 28

#: Only whole blocks are given back; what is kept of a file begins at a multiple of this.
BLOCK = 4096

#: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, linux/falloc.h.
_PUNCH = 0x01 | 0x02

_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass(slots=True)
class _File:
    path: str
    budget: int
    look_at: Instant
    pause: float = SHORTEST_PAUSE
    size: int = 0
    kept_from: int = 0
    """What is before it was punched out."""


class Budgets:
    """Looks at the output files of live runs, each as often as it grows."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._files: dict[wire.RunUid, _File] = {}
        self._supported = True
        self.due = NEVER
        """When to look again."""

    def watch(self, uid: wire.RunUid, path: str, budget: int, at: Instant) -> None:
        """Keep a run's file within its budget from now on."""
        if self._supported:
            self._files[uid] = _File(path, budget, Instant(at + SHORTEST_PAUSE))
            self.due = min(self.due, Instant(at + SHORTEST_PAUSE))

    def drop(self, uid: wire.RunUid) -> None:
        """Bring a run's file within its budget once more: nobody writes to it any longer."""
        if file := self._files.pop(uid, None):
            while self._look(file):
                pass

    def keep(self, at: Instant) -> None:
        """Look at the files whose time has come."""
        self.due = NEVER
        for file in list(self._files.values()):
            if file.look_at <= at:
                before = file.size
                again = self._look(file)
                grew = file.size - before > file.budget // FAST
                file.pause = SHORTEST_PAUSE if grew or again else min(2 * file.pause, LONGEST_PAUSE)
                file.look_at = Instant(at + file.pause)
            self.due = min(self.due, file.look_at)
        if not self._files:
            self.due = NEVER

    def _look(self, file: _File) -> bool:
        """Punch out what is too much; say whether there is more of it than is done at a time."""
        try:
            size = os.stat(file.path).st_size
        except OSError:  # somebody tidied up
            return False
        if size < file.size:  # truncated by its writer
            file.kept_from = 0
        file.size = size
        surplus = (size - file.budget) // BLOCK * BLOCK - file.kept_from
        if surplus <= 0 or not self._supported:
            return False
        length = min(surplus, MOST_PUNCHED)
        try:
            punch(file.path, file.kept_from, length)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                self._give_up(file.path)
            return False
        file.kept_from += length
        return surplus > length

    def _give_up(self, path: str) -> None:
        self._supported = False
        self._files.clear()
        self._log("output.uncapped", path=path, reason="its filesystem cannot punch holes")


def punch(path: str, offset: int, length: int) -> None:
    """Give back the blocks of a part of a file; its size stays. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if _fallocate(descriptor, _PUNCH, offset, length) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        with suppress(OSError):
            os.close(descriptor)
