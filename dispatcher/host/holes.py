"""Holes in files: blocks given back to the filesystem while every offset stays valid."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

#: Only whole blocks are given back.
BLOCK = 4096

#: What a filesystem without holes answers.
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)

#: FALLOC_FL_KEEP_SIZE and, with it, FALLOC_FL_PUNCH_HOLE: linux/falloc.h.
KEEP_SIZE = 0x01
_PUNCH = KEEP_SIZE | 0x02

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Reserve or give back the blocks of a part of a file. Raises OSError: see its man page."""
    if _fallocate(descriptor, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def punch(descriptor: int, offset: int, length: int) -> None:
    """Give back the blocks of a part of a file; its size stays. Raises OSError."""
    fallocate(descriptor, _PUNCH, offset, length)


def next_data(descriptor: int, offset: int) -> int | None:
    """Return where the next bytes are that are in no hole; None: there are none."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        return offset  # a filesystem that knows no holes


def tried(directory: str) -> OSError | None:
    """Punch a hole into a file made for that, nameless where it may be; return what failed."""
    flags = os.O_RDWR | os.O_CLOEXEC
    path = f"{directory}/holes-{os.getpid()}"
    try:
        try:
            descriptor = os.open(directory, os.O_TMPFILE | flags, 0o600)
        except OSError:  # some filesystems, of those without holes too, know only files with names
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | flags, 0o600)
            Path(path).unlink()
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(bytes(2 * BLOCK))
            punch(descriptor, 0, BLOCK)
    except OSError as error:
        return error
    return None


def unsupported(directory: str) -> str | None:
    """Say why no run's output in a directory can be kept within its budget; None: it can.

    What stands in the way of trying is not said here.
    """
    error = tried(directory)
    if error is None or error.errno not in UNSUPPORTED:
        return None
    return (
        f"the filesystem of {directory} cannot punch holes, so no run's output is kept"
        " within [output] run_budget; set [node] state_dir to ext4, xfs, btrfs or tmpfs"
    )
