"""Reading a run's output file as it grows, holes and successors included."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

import click

from dispatcher.errors import DispatcherError
from dispatcher.host import output_files
from dispatcher.host.holes import BLOCK
from dispatcher.model import Run

#: Bytes of one read.
CHUNK = 64 * 1024


def print_end(run: Run) -> None:
    """Print what the store kept of an output that is gone or emptied. Raises `DispatcherError`."""
    if run.output_tail is None:
        raise DispatcherError(f"{run.output_path} is gone, and nothing was kept")
    if run.output_tail:  # a run that wrote nothing leaves no file, and nothing is missing
        what = "is gone (its worker, a person, or [output] total_budget or free_floor removed it)"
        if os.path.exists(run.output_path):  # noqa: PTH110 - as read
            what = "was emptied or replaced by somebody"
        click.echo(f"dispatcher: {run.output_path} {what}; this was its end:", err=True)
        sys.stdout.buffer.write(run.output_tail.encode())
        sys.stdout.buffer.flush()


def dropped(path: str, budget: int) -> int:
    """Return how many bytes the budget took from the beginning of a file; 0 if it is not here."""
    with suppress(OSError):
        file = output_files.opened(path)
        try:
            data = _data_from(file, 0)
            return data if _may_be_punched(file, data, budget) else 0
        finally:
            os.close(file)
    return 0


def _may_be_punched(file: int, hole_end: int, budget: int) -> bool:
    """Return whether a hole may be what was dropped: the end of a file is kept, a budget long."""
    return hole_end <= os.fstat(file).st_size - budget


def _data_from(file: int, offset: int) -> int:
    """Return where the first data at or behind an offset is; the file's size if there is none."""
    try:
        return os.lseek(file, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # nothing but a hole, or nothing at all, to the end
            raise
        return os.fstat(file).st_size


class RunOutput:
    """One run's output, from its beginning; used as a context manager.

    What the budget punched out of the file is skipped and counted, with the rest of the line that
    it tore, unless that is longer than `CHUNK`: no half line is glued to another. A hole that is
    nearer to the end than the budget was made by the worker: it is skipped alone. A run that wrote
    nothing hands its file on to a later run (ADR 6), whose words are not this run's.
    """

    def __init__(self, path: str, *, budget: int, tail: int | None = None) -> None:
        """Read from the beginning, or, of what is there at the first look, from the last lines."""
        self._path = path
        self._budget = budget
        self._tail = tail
        self._file: int | None = None
        self._start = self._offset = 0
        self.dropped = 0
        """Bytes that were not there any more when they were to be read, and torn lines' rests."""
        self.holes = 0
        """Bytes that were never written."""
        self.truncated = 0
        """Bytes that had been read when the file was made shorter than that, by its writer."""
        self._version: tuple[int, int] | None = None
        """Of the file of which everything was read: its size, and when it was written last."""
        self._suspect: tuple[int, int] | None = None
        """The version in which it may have been written anew, no longer than before."""
        self._torn = False
        """Whether what comes next begins within a line."""
        self._at_line_start = True
        """Whether what was given last ended a line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def exists(self) -> bool:
        """Say whether there is anything to read from, now or later."""
        return self._file is not None or os.path.exists(self._path)  # noqa: PTH110 - as read

    def read(self) -> bytes:
        """Return what was written since the last call, at most `CHUNK` bytes; b"" when nothing."""
        if self._file is None:
            with suppress(FileNotFoundError):
                self._file = output_files.opened(self._path)
            if self._file is not None and self._tail is not None:
                self._start = self._offset = _start_of_tail(self._file, self._tail)
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
            self._note_version(self._file)
            return b""
        self._offset += len(chunk)
        self._version = None
        whole = self._from_next_line(chunk)
        self._at_line_start = chunk.endswith(b"\n")
        return whole or self.read()

    def _note_version(self, file: int) -> None:
        """Remember a file of which everything was read."""
        if self._suspect is None and (version := _version(file))[0] == self._offset:
            self._version = version

    def _was_truncated(self, file: int) -> bool:
        """Look whether what was read is no longer there.

        A file that is as long as before was written anew if its time moved, and still says so at
        the next call: a write moves the time before the size. The budget moves the time as well,
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
        """Return what was read without the rest of a torn line, but with the end of a begun one."""
        torn, self._torn = self._torn, False
        end = chunk.find(b"\n") if torn else -1
        rest = 0 if end < 0 else end + self._at_line_start
        self.dropped += rest
        return chunk[rest:]

    def _skip_hole(self, file: int) -> bool:
        """Go on to the next data; say whether there was a hole before it."""
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
        """Look whether the file was handed on before its first byte was written."""
        with suppress(FileNotFoundError):
            there, here = os.stat(self._path), os.fstat(file)  # noqa: PTH116 - beside fstat
            return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
        return False

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _version(file: int) -> tuple[int, int]:
    """Return a file's size in bytes, and when it was written last in nanoseconds since 1970."""
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns


def _start_of_tail(file: int, lines: int) -> int:
    """Return where the last lines of a file begin, reading it from its end, but no hole."""
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
