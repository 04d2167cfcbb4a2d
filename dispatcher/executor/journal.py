"""The executor's journal: intentions before acts, observations before reports.

JSON lines, appended without fsync, because another boot discards them. They hold no lock,
environment or payload. They are kept in the runtime directory where that is another filesystem, in
memory as a rule, and the name in the state directory is a link: so a disk that hangs delays no
exit, no kill and no sign of life.

A line that a successor cannot read costs that line alone: it is counted, and the rest holds.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dispatcher.errors import ConfigError
from dispatcher.executor.records import (
    MAX_LINE,
    Damage,
    Header,
    InheritedRun,
    Record,
    encode,
    replay,
)
from dispatcher.times import NEVER, Instant

#: Bytes beyond the size of the last rewrite, after which the journal is rewritten.
REWRITE_AFTER = 1024 * 1024

#: Seconds until a failed rewrite is tried again: after a full disk, a successor must soon be able
#: to read what could not be written.
RETRY = 1.0

#: Seconds until a directory that is open, and took no journal, is tried again: its filesystem is
#: full, and every try rewrites the journal elsewhere.
RETRY_FULL = 60.0

#: Bytes of a whole journal: far more than any has, so that damage is soon read.
MAX_SIZE = 64 * 1024 * 1024

_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


class Journal:
    """Collects records during a tick and writes them in one piece."""

    def __init__(self, path: str, header: Header, *, kept_at: str | None = None) -> None:
        """`path` is what a successor reads: a link to `kept_at` if the lines are kept there."""
        self.path = path
        self._kept_at = kept_at or path
        self._linked = kept_at is None
        """Whether `path` leads to the lines."""
        self._full_until: Instant | None = None
        """When to try `kept_at` again, whose directory is open and took no journal."""
        self.damage: Damage | None = None
        """The lines of the predecessor's journal that could not be read."""
        self._header = header
        self._descriptor: int | None = None
        self._lines: list[bytes] = []
        self._size = 0
        self._rewrite_at = 0
        self._incomplete = False
        """Whether a record could not be written."""
        self._retry_at = Instant(0.0)
        self._why_missing = OSError(errno.EIO, "it could not be made")

    def close(self) -> None:
        """Close the descriptor; records that were not flushed are lost."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def predecessors_runs(self) -> list[InheritedRun]:
        """Return the runs of the last executor of this boot and pid namespace, and set `damage`.

        Raises `ConfigError`, which names a file that cannot be read.
        """
        try:
            with opened(self.path) as file:
                runs, self.damage = replay(_lines(file), self._header)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _refused(self.path, f"cannot be read: {error.strerror}") from error
        return runs

    def append(self, record: Record) -> None:
        """Add a record, to be written by the next flush."""
        self._lines.append(encode(record))

    def flush(self) -> OSError | None:
        """Write the added records, wholly or not at all; return why they could not be written."""
        if not self._lines:
            return None
        data = b"\n".join(self._lines) + b"\n"
        self._lines.clear()
        if self._descriptor is None:
            return self._why_missing
        try:
            _write(self._descriptor, data)
        except OSError as error:
            # Half a line would swallow the next one.
            with suppress(OSError):
                os.truncate(self._descriptor, self._size)
            self._incomplete = True
            return error
        self._size += len(data)
        return None

    @property
    def due(self) -> Instant:
        """When to rewrite: to compact what has grown, or to add what could not be written."""
        if self._descriptor is None or self._incomplete or self._size > self._rewrite_at:
            return self._retry_at
        return NEVER if self._full_until is None else self._full_until

    @property
    def is_there(self) -> bool:
        """Whether the lines are where they belong, and a successor would find them.

        They may be removed with their directory; while it is missing, closed or full, they belong
        at `path`.
        """
        if self._descriptor is None or self._kept_at == self.path:
            return True
        if self._linked or self._full_until is not None or not self._is_open():
            return self._is_found()
        return False

    def _is_open(self) -> bool:
        """Return whether the directory where the lines are kept may be written."""
        return os.access(Path(self._kept_at).parent, os.W_OK | os.X_OK)

    def _is_found(self) -> bool:
        """Return whether `path` leads to the lines."""
        with suppress(OSError):
            if self._descriptor is not None:
                return os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        return False

    def restore(self) -> None:
        """Make a rewrite due at once."""
        self._incomplete, self._retry_at = True, Instant(0.0)

    def rewrite(self, summaries: Iterable[Record], at: Instant) -> OSError | None:
        """Replace all lines by one for each run; return why that failed."""
        data = b"\n".join([encode(self._header), *map(encode, summaries), b""])
        self._retry_at, self._full_until = Instant(at + RETRY), None
        try:
            try:
                descriptor = self._written_anew(self._kept_at, data)
            except OSError:  # its directory was removed, and perhaps made again by another user
                if self._linked and self._is_found():
                    raise  # the old lines stay, with those that follow
                descriptor = self._written_anew(self.path, data)
                if self._kept_at != self.path and self._is_open():
                    self._full_until = Instant(at + RETRY_FULL)
        except OSError as error:
            text = f"it could not be made: {error.strerror}"
            self._why_missing = OSError(error.errno, text, error.filename)
            return error
        self.close()
        self._descriptor = descriptor
        self._size = len(data)
        self._rewrite_at = self._size + REWRITE_AFTER
        self._incomplete, self._retry_at = False, at
        return None

    def _written_anew(self, place: str, data: bytes) -> int:
        """Return the descriptor of a journal that a successor finds at a place. Raises OSError."""
        fresh = f"{place}.new"
        Path(fresh).unlink(missing_ok=True)
        descriptor = os.open(fresh, _NEW, 0o600)
        try:
            _write(descriptor, data)
            Path(fresh).rename(place)
            if place == self.path:  # in the place of a link
                self._linked = self._kept_at == self.path
            else:
                self._link()
        except OSError:
            os.close(descriptor)
            Path(fresh).unlink(missing_ok=True)
            raise
        return descriptor

    def _link(self) -> None:
        """Make `path` lead to the lines, once: a later rewrite needs no disk of the state."""
        if not self._linked:
            draft = Path(f"{self.path}.link")
            draft.unlink(missing_ok=True)
            draft.symlink_to(self._kept_at)
            draft.rename(self.path)
            self._linked = True


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def opened(path: str) -> BinaryIO:
    """Open a journal for reading; a file that is not regular, and could block, is refused.

    Raises `ConfigError`, which names the file and the remedy, and FileNotFoundError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_SIZE:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise _refused(path, f"has {found.st_size} bytes, more than any journal")
    raise _refused(path, "is not a regular file")


def _refused(path: str, wrong: str) -> ConfigError:
    remedy = "let the executor's user read it or, when none of its runs lives, move it away"
    return ConfigError(f"the journal {path} {wrong}; {remedy}")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield each line; of one that is longer than any, its beginning."""
    while line := file.readline(MAX_LINE):
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE)
        yield line
