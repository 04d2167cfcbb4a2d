"""Holes in files: blocks returned to the filesystem while every offset stays valid."""

import ctypes
import errno
import os
from pathlib import Path

#: Only whole blocks are returned.
BLOCK = 4096

#: Errors of a filesystem without holes.
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)

#: FALLOC_FL_KEEP_SIZE and, with it, FALLOC_FL_PUNCH_HOLE: linux/falloc.h.
KEEP_SIZE = 0x01
_PUNCH = KEEP_SIZE | 0x02

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Reserve blocks, or return them to the filesystem, in a range. Raises OSError."""
    if _fallocate(descriptor, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def punch(descriptor: int, offset: int, length: int) -> None:
    """Return the blocks of a range to the filesystem; the size stays. Raises OSError."""
    fallocate(descriptor, _PUNCH, offset, length)


def next_data(descriptor: int, offset: int) -> int | None:
    """Return the offset of the next data outside holes, None if there is none."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        return offset  # a filesystem without holes


def try_punching(directory: str) -> OSError | None:
    """Punch a hole into a temporary file, unnamed if possible; return the error."""
    flags = os.O_RDWR | os.O_CLOEXEC
    path = f"{directory}/holes-{os.getpid()}"
    try:
        try:
            descriptor = os.open(directory, os.O_TMPFILE | flags, 0o600)
        except OSError:  # some filesystems have only named files
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | flags, 0o600)
            Path(path).unlink()
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(bytes(2 * BLOCK))
            punch(descriptor, 0, BLOCK)
    except OSError as error:
        return error
    return None


def unsupported(directory: str) -> str | None:
    """Return why output in a directory cannot be kept within a budget, None if it can.

    None also if the directory cannot be tried: others report that.
    """
    error = try_punching(directory)
    if error is None or error.errno not in UNSUPPORTED:
        return None
    return (
        f"the filesystem of {directory} cannot punch holes, so no run's output is kept"
        " within [output] run_budget; set [node] state_dir to ext4, xfs, btrfs or tmpfs"
    )
