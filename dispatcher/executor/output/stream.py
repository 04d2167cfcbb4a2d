"""Reading one run's output in pieces, each of which becomes a record of systemd's journal."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher import worker_api
from dispatcher.executor.run import TrackedRun
from dispatcher.host.holes import next_data
from dispatcher.logs.journald import field
from dispatcher.times import LONG_AGO, NEVER, Instant

#: Bytes read at a time.
MOST_READ = 256 << 10

#: Bytes of a record's message, as of a line that services write to the journal: 48 KiB there.
MOST_OF_PIECE = 48 << 10

#: The field that names why a record does not end with its line.
LINE_BREAK = b"DISPATCHER_LINE_BREAK"


class Piece(NamedTuple):
    text: bytes
    end: int
    """Offset of its end, with its line end, in the data that it was cut from."""
    line_break: str = ""
    """Why its last line is not whole: `line-max`, the next piece continues it; `eof`, the end."""


@dataclass(slots=True, eq=False)
class Stream:
    """One run's output on its way to the journal."""

    run: TrackedRun
    descriptor: int
    head: bytes
    """The fields that each of its records has."""
    offset: int
    """The offset before which everything was forwarded, or lost."""
    look_at: Instant
    size: int = 0
    lost: int = 0
    """Bytes that were not forwarded and not reported yet."""
    why_lost: str = ""
    report_at: Instant = LONG_AGO
    ended: bool = False
    done: bool = False
    """It ended, and all of it was forwarded or lost."""
    give_up_at: Instant = NEVER

    def lose(self, until: int, why: str) -> None:
        """Count everything before an offset as lost, and continue there."""
        self.lost += until - self.offset
        self.offset, self.why_lost = until, why

    def read(self) -> bytes:
        """Measure the file and return the data that comes next; data that cannot be read is lost.

        After a gap, reading goes on at the next whole line.
        """
        try:
            return self._read()
        except OSError as error:  # a disk with a bad sector
            self.lose(max(self.size, self.offset), f"it cannot be read: {error.strerror}")
            return b""

    def measured(self) -> int:
        """Return the file's size in bytes, the last known if it cannot be measured."""
        try:
            return os.fstat(self.descriptor).st_size
        except OSError:
            return self.size

    def _read(self) -> bytes:
        before, self.size = max(self.size, self.offset), os.fstat(self.descriptor).st_size
        if self.size < before:
            goes_on = self.size >= self.offset
            self.lost += before - (self.size if goes_on else self.offset)
            self.why_lost = "its writer truncated the file"
            self.offset = self.offset if goes_on else 0
        found = next_data(self.descriptor, self.offset)
        start = self.size if found is None else found
        data = os.pread(self.descriptor, MOST_READ, start)
        if start > self.offset:
            begins = data.find(b"\n") + 1
            self.lose(start + begins, "[output] run_budget dropped it first")
            data = data[begins:]
        return data

    def record(self, piece: Piece) -> bytes:
        """Return a piece as a record in journald's format."""
        broken = field(LINE_BREAK, piece.line_break.encode())
        return self.head + field(b"MESSAGE", piece.text) + (broken if piece.line_break else b"")


def head(run: TrackedRun, node: str) -> bytes:
    """Return the fields of each record of a run's output."""
    name = f"dispatcher-task-{run.task_variables.get(worker_api.TASK_VARIABLE, run.uid)}"
    fields = {
        "SYSLOG_IDENTIFIER": name,
        "PRIORITY": "6",
        **run.task_variables,
        worker_api.MARKER: run.uid,
        "DISPATCHER_PID": "" if run.pid is None else str(run.pid),
        "DISPATCHER_NODE": node,
    }
    return b"".join(field(key.encode(), value.encode()) for key, value in fields.items() if value)


def pieces(data: bytes, *, last: bool, single: bool) -> Iterator[Piece]:
    """Yield the data that may be sent now: whole lines, and parts of a line longer than a piece.

    `last`: nothing follows, so a rest without a line end is sent too. `single`: each line alone;
    otherwise as many as fit together.
    """
    search = data.find if single else data.rfind
    start = 0
    while start < len(data):
        end = search(b"\n", start, start + MOST_OF_PIECE + 1)
        if end >= 0:
            yield Piece(data[start:end], end + 1)
            start = end + 1
        elif len(data) - start > MOST_OF_PIECE:
            end = _character_before(data, start + MOST_OF_PIECE)
            yield Piece(data[start:end], end, "line-max")
            start = end
        else:
            if last:
                yield Piece(data[start:], len(data), "eof")
            return


def _character_before(data: bytes, end: int) -> int:
    """Return the begin of the UTF-8 character that a cut at `end` would split."""
    for start in range(end, end - 4, -1):
        if data[start] & 0xC0 != 0x80:
            return start
    return end
