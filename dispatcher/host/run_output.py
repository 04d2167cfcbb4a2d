"""Reading a run's output file as it grows, holes and successors included."""

import errno
import os
from contextlib import suppress
from typing import Self

from dispatcher.host import output_files
from dispatcher.host.holes import BLOCK

#: Bytes of one read.
CHUNK = 64 * 1024


def dropped(path: str, budget: int) -> int:
    """Return how many bytes the budget dropped from a file's beginning; 0 without the file."""
    with suppress(OSError):
        file = output_files.opened(path)
        try:
            data = _data_from(file, 0)
            return data if _may_be_punched(file, data, budget) else 0
        finally:
            os.close(file)
    return 0


def _may_be_punched(file: int, hole_end: int, budget: int) -> bool:
    """Return whether the budget may have punched a hole: it keeps that much of the end."""
    return hole_end <= os.fstat(file).st_size - budget


def _data_from(file: int, offset: int) -> int:
    """Return where the next data from an offset on is; the file's size if there is none."""
    try:
        return os.lseek(file, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # nothing but a hole, or nothing at all, to the end
            raise
        return os.fstat(file).st_size


class RunOutput:
    """One run's output, from its beginning; used as a context manager.

    Holes that the budget punched are skipped and counted, with the rest of the line that they tore,
    unless that is longer than `CHUNK`: no half line is glued to another. A hole nearer to the end
    than the budget was made by the worker, and is skipped alone. A run that wrote nothing hands its
    file on to a later run (ADR 6), whose output is not this run's.
    """

    def __init__(self, path: str, *, budget: int, tail: int | None = None, offset: int = 0) -> None:
        """Read from an offset, or from the last `tail` lines at the first read."""
        self._path = path
        self._budget = budget
        self._tail = tail
        self._file: int | None = None
        self._start = self._offset = offset
        self.dropped = 0
        """Bytes that were gone before they were read, and the rests of torn lines."""
        self.holes = 0
        """Bytes that were never written."""
        self.truncated = 0
        """Bytes that had been read when the writer made the file shorter."""
        self._version: tuple[int, int] | None = None
        """Size and last write of the file once everything was read."""
        self._suspect: tuple[int, int] | None = None
        """A version that may be new content of the same length."""
        self._torn = False
        """Whether the next bytes begin within a line."""
        self._at_line_start = True
        """Whether the last bytes ended a line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def offset(self) -> int:
        """Where the next read begins."""
        return self._offset

    def exists(self) -> bool:
        """Return whether there is a file to read from."""
        return self._file is not None or os.path.exists(self._path)  # noqa: PTH110 - as read

    def read(self) -> bytes:
        """Return what was written since the last call, at most `CHUNK` bytes; b"" for nothing."""
        if self._file is None:
            with suppress(FileNotFoundError):
                self._file = output_files.opened(self._path)
            if self._file is not None and self._tail is not None:
                self._start = self._offset = start_of_tail(self._file, self._tail)
        if self._file is None:
            return b""
        if self._was_truncated(self._file):
            self.truncated += self._offset
            self._start = self._offset = 0
            self._version = self._suspect = None
            self._torn = False
        self._skip_hole(self._file)
        chunk = os.pread(self._file, CHUNK, self._offset)
        while chunk and self._skip_hole(self._file):  # punched out meanwhile, it may read as zeros
            chunk = os.pread(self._file, CHUNK, self._offset)
        if chunk and self._offset == self._start and not self._is_still_ours(self._file):
            self._close()
            return b""
        if not chunk:
            self._remember_version(self._file)
            return b""
        self._offset += len(chunk)
        self._version = None
        whole = self._from_next_line(chunk)
        self._at_line_start = chunk.endswith(b"\n")
        return whole or self.read()

    def _remember_version(self, file: int) -> None:
        """Remember the file's version once everything was read."""
        if self._suspect is None and (version := _version(file))[0] == self._offset:
            self._version = version

    def _was_truncated(self, file: int) -> bool:
        """Return whether the file was written anew since the last read.

        A file of the same length was written anew if its time of last write moved, and is the same
        at the next call: a write moves the time before the size. The budget moves that time too,
        and leaves a hole at the beginning.
        """
        version = _version(file)
        if version[0] != self._offset or version == self._version:
            self._suspect = None
            return version[0] < self._offset
        if self._version is None or _data_from(file, 0) > 0:
            return False
        sure, self._suspect = version == self._suspect, version
        return sure

    def _from_next_line(self, chunk: bytes) -> bytes:
        """Return a chunk without the rest of a torn line, but with the end of a begun one."""
        torn, self._torn = self._torn, False
        end = chunk.find(b"\n") if torn else -1
        rest = 0 if end < 0 else end + self._at_line_start
        self.dropped += rest
        return chunk[rest:]

    def _skip_hole(self, file: int) -> bool:
        """Go on to the next data; return whether a hole was before it."""
        data = _data_from(file, self._offset)
        skipped = max(0, data - self._offset)
        if skipped and _may_be_punched(file, data, self._budget):
            self.dropped += skipped
            self._torn = True
        else:
            self.holes += skipped
        self._offset += skipped
        return skipped > 0

    def _is_still_ours(self, file: int) -> bool:
        """Return whether the file was not handed on to a later run."""
        with suppress(FileNotFoundError):
            there, here = os.stat(self._path), os.fstat(file)  # noqa: PTH116 - as fstat
            return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
        return False

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _version(file: int) -> tuple[int, int]:
    """Return a file's size in bytes and its last write in nanoseconds since 1970."""
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns


def start_of_tail(file: int, lines: int) -> int:
    """Return where the last lines of a file begin; it is read from its end, without holes."""
    size = position = os.fstat(file).st_size
    while (position := _end_of_data(file, position)) > 0:
        start = max(0, position - 1) // CHUNK * CHUNK
        block = os.pread(file, position - start, start)
        position -= len(block)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            if position + at + 1 == size:  # the end of the last line begins none
                continue
            lines -= 1
            if lines == 0:
                return position + at + 1
    return 0


def _end_of_data(file: int, before: int) -> int:
    """Return where the last data before an offset ends, in whole blocks; 0 if there is none."""
    if before == 0 or _data_from(file, before - 1) < before:
        return before
    low, high = 0, -(-before // BLOCK)
    while low < high:
        middle = (low + high) // 2
        if _data_from(file, middle * BLOCK) >= before:
            high = middle
        else:
            low = middle + 1
    return min(before, high * BLOCK)
