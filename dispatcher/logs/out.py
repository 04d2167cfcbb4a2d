"""Where the daemon's lines go: a stream, or systemd's journal."""

import math
import sys
from collections.abc import Callable
from typing import TextIO

from dispatcher.logs import journald
from dispatcher.logs.writer import NonBlockingWriter, Sink, sink_for
from dispatcher.times import Instant


class LogStream:
    """Writes lines without waiting for a full disk, a closed pipe or a stopped reader.

    There is one for the process: loggers keep it, and `set_up` redirects it.
    """

    def __init__(self, report_dropped: Callable[[int], None]) -> None:
        self._report_dropped = report_dropped
        self.stream: TextIO = sys.stdout
        self.in_journal = False
        """Whether lines are records of systemd's journal."""
        self._before_line = ""
        self._writer: NonBlockingWriter | None = None
        """None for a stream in memory, which has no descriptor."""

    def redirect(
        self,
        stream: TextIO,
        journal: journald.Connection | None,
        *,
        before_line: str,
        clock: Callable[[], Instant],
    ) -> None:
        """Write to a stream, or send records to the journal, from now on."""
        self._before_line = before_line
        same = stream is self.stream and self.in_journal == (journal is not None)
        if self._writer is not None and same:
            if journal is not None:
                journal.close()
            return
        self.close(within=0)
        self.stream, self.in_journal = stream, journal is not None
        sink: Sink | None = None
        if journal is not None:
            sink = journal.sink
        elif (descriptor := descriptor_of(stream)) >= 0:
            stream.flush()
            sink = sink_for(descriptor)
        if sink is not None:
            self._writer = NonBlockingWriter(sink, report=self._report_dropped, clock=clock)

    @property
    def due(self) -> Instant:
        """When to `retry`."""
        return Instant(math.inf) if self._writer is None else self._writer.due

    def retry(self) -> None:
        """Write as much of the queue as the reader takes."""
        if self._writer is not None:
            self._writer.retry()

    def close(self, *, within: float) -> None:
        """Give the reader so many seconds to take the queue."""
        if self._writer is not None:
            self._writer.close(within=within)
            self._writer = None

    def write(self, line: str | bytes) -> None:
        """Write a line, or send a record."""
        if isinstance(line, bytes):  # a record of the journal
            if self._writer is not None:
                self._writer.write(line)
            return
        text = f"{self._before_line}{line}\n"
        if self._writer is not None:
            self._writer.write(text.encode(self.stream.encoding, "backslashreplace"))
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = write


def descriptor_of(stream: TextIO) -> int:
    """Return the descriptor of a stream; -1 without one."""
    try:
        return stream.fileno()
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return -1
