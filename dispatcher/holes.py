"""Holes in files: blocks given back to the filesystem while every offset stays valid."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

#: Only whole blocks are given back.
BLOCK = 4096

#: What a filesystem without holes answers.
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)

#: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, linux/falloc.h.
_PUNCH = 0x01 | 0x02

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


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


def unsupported(directory: str) -> str | None:
    """Say why no run's output in a directory can be kept within its budget; None: it can.

    Tried on a file of its own. What stands in the way of trying is not said here.
    """
    path = f"{directory}/holes-{os.getpid()}"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        os.write(descriptor, bytes(2 * BLOCK))
        punch(path, 0, BLOCK)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return (
                f"the filesystem of {directory} cannot punch holes, so no run's output is kept"
                " within [output] run_budget; set [node] state_dir to ext4, xfs, btrfs or tmpfs"
            )
    finally:
        os.close(descriptor)
        Path(path).unlink()
    return None
