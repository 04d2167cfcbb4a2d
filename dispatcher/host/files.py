"""Small files: read without blocking, replaced in one step; immutable ones in memory."""

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

#: Bytes of a file that holds an id or a path.
MOST_OF_ID = 4096

#: Those of a file that never changes again: memfd_create(2).
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

#: `/dev/null`, which reads as an empty file: Linux's list of devices.
_NULL = os.makedev(1, 3)


class Unfit(OSError):
    """Not a regular file, or too large: name the path and what is expected there."""


def opened(path: str | Path) -> BinaryIO:
    """Return a regular file, or `/dev/null`, opened for reading.

    Raises OSError, and `Unfit` for anything but those two.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    found = os.fstat(file.fileno())
    if stat.S_ISREG(found.st_mode) or (stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL):
        return file
    file.close()
    raise Unfit(errno.EINVAL, "is not a regular file", str(path))


def read(path: str | Path, most: int = MOST_OF_ID) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises OSError, and `Unfit` for a larger file and for anything but a regular file.
    """
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Unfit(errno.EFBIG, f"has more than {most} bytes", str(path))
    return content


def replace(
    path: Path, text: str, *, mode: int = 0o600, group: int = -1, durable: bool = False
) -> None:
    """Write a file in one step: readers see the old or the new content. Raises OSError.

    A `durable` file is on the disk on return, with its name.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        write_new(draft, text, mode=mode, group=group, durable=durable)
        draft.rename(path)
        if durable:
            sync(path.parent)
    except OSError as error:  # of the file that the caller knows
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_new(
    path: Path, text: str, *, mode: int = 0o600, group: int = -1, durable: bool = False
) -> None:
    """Write a file that must not exist, nor a link in its place. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if group != -1:  # the daemon's unit forbids the call
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, mode)
        if durable:
            os.fsync(descriptor)


def sync(path: Path) -> None:
    """Write a file's content, or a directory's names, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed_file(name: str, content: bytes) -> int:
    """Return a descriptor at the start of a sealed file with this content. Raises OSError."""
    file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        os.lseek(file, 0, os.SEEK_SET)
    except OSError:
        os.close(file)
        raise
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a FIFO without a writer does not block."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
