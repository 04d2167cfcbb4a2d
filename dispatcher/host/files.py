"""Reading files in whose place anything may stand: no read waits, and each has a bound."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

#: Bytes of a file that holds an id or a path.
MOST_OF_ID = 4096


#: `/dev/null`, which reads as an empty file: Linux's list of devices.
_NULL = os.makedev(1, 3)


class Unfit(OSError):
    """Something else stands in the place of a file: name what, and say what should be there."""


def opened(path: str | Path) -> BinaryIO:
    """Return a regular file, or `/dev/null`, opened for reading.

    Raises OSError, and `Unfit` of anything else.
    """
    file = open(path, "rb", opener=_at_once)  # noqa: SIM115 - the caller closes it
    found = os.fstat(file.fileno())
    if stat.S_ISREG(found.st_mode) or (stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL):
        return file
    file.close()
    raise Unfit(errno.EINVAL, "is not a regular file", str(path))


def read(path: str | Path, most: int = MOST_OF_ID) -> bytes:
    """Return the content of a regular file.

    Raises OSError when it cannot be read, and `Unfit` when it has more than `most` bytes or is no
    regular file.
    """
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Unfit(errno.EFBIG, f"has more than {most} bytes", str(path))
    return content


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a FIFO's writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
