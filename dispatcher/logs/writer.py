"""Write lines without ever waiting for their reader.

A reader that has stopped (a full pipe, Ctrl-S in a terminal, a journal that hangs) costs lines, not
the loop: a bounded number of bytes is queued, then lines are dropped. A reader that has left, or a
full disk, costs lines too. Lost lines are counted, and reported with the next line that is written.
"""

import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import NamedTuple

from dispatcher import times
from dispatcher.times import Instant

#: Bytes of lines queued for a reader that has stopped.
MOST_QUEUED = 1 << 20

#: Seconds between two attempts to write the queue; each new line makes one too.
RETRY = 0.25


class Sink(NamedTuple):
    send: Callable[[bytes], int]
    """Write without waiting; return how many bytes. Raises BlockingIOError or OSError."""
    wait: Callable[[float], object] = lambda _: None
    """Wait until it takes bytes, for so many seconds at most; a file takes them at once."""
    close: Callable[[], None] = lambda: None
    """Close the descriptor, if it is ours."""


class NonBlockingWriter:
    """Writes whole lines in order, and reports how many were dropped once there is room."""

    def __init__(
        self,
        sink: Sink,
        *,
        report: Callable[[int], None],
        clock: Callable[[], Instant] = times.instant,
    ) -> None:
        """`report` is called with the number of dropped lines; it may `write` a line."""
        self.sink = sink
        self._report = report
        self._clock = clock
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._lost = 0
        self._failing = False
        """Whether the last attempt met an error: a report would be lost too."""
        self._begun = False
        """Whether the current line was written in part."""
        self._torn = False
        """Whether a line was lost after a part of it was written: a line end comes first."""
        self.due = Instant(inf)
        """When to `retry`; never while the queue is empty."""

    def write(self, line: bytes) -> None:
        """Write a line, queue it, or drop and count it."""
        self._flush()
        if self._queue and (self._lost or self._queued + len(line) > MOST_QUEUED):
            self._lost += 1  # until the queue is empty, so that its lines are consecutive
        elif rest := line if self._queue else self._attempt(line):
            self._queue.append(rest)
            self._queued += len(rest)
            self.due = Instant(self._clock() + RETRY)
        self._report_lost()

    def retry(self) -> None:
        """Write as much of the queue as the reader takes."""
        self._flush()
        self._report_lost()

    def _flush(self) -> None:
        while self._queue:
            line = self._queue[0]
            rest = self._attempt(line)
            self._queued -= len(line) - len(rest)
            if rest:
                self._queue[0] = rest
                self.due = Instant(self._clock() + RETRY)
                return
            self._queue.popleft()
        self.due = Instant(inf)

    @property
    def _is_due(self) -> bool:
        """Whether to report lost lines: the queue is empty, and the reader takes lines."""
        return self._lost > 0 and not self._queue and not self._failing

    def _report_lost(self) -> None:
        if self._is_due:
            lost, self._lost = self._lost, 0
            self._report(lost)
            if self._failing:  # the report is lost as well, and counted
                self._lost += lost

    def close(self, *, within: float) -> None:
        """Give the reader so many seconds to take the queue; its descriptor stays open."""
        give_up_at = self._clock() + within
        while self._queue and (left := give_up_at - self._clock()) > 0:
            self.sink.wait(left)
            self.retry()
        self.sink.wait(max(0.0, give_up_at - self._clock()))
        self._queue.clear()
        self.sink.close()
        self.sink = Sink(len)  # drops every line

    def _attempt(self, line: bytes) -> bytes:
        """Write a line; return the part that the reader did not take."""
        if self._torn:
            line, self._torn = b"\n" + line, False
        try:
            while line:
                line = line[self.sink.send(line) :]
                self._begun, self._failing = bool(line), False
        except BlockingIOError:
            return line
        except OSError:  # a full disk or a closed pipe: the line is lost
            self._torn, self._failing = self._begun, True
            self._lost += 1
        return b""


def sink_for(descriptor: int) -> Sink:
    """Return a sink that writes to a descriptor without waiting.

    The descriptor keeps its mode, as the process that started us shares it.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(descriptor))
        send = partial(_send, connection)
        return Sink(send, partial(_wait_for_room, descriptor), connection.close)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            own = _reopened(descriptor)
        except OSError:  # it is another user's, or has no reader
            threaded = ThreadedSink(descriptor)
            return Sink(threaded.send, threaded.wait)
        close = partial(os.close, own)
        return Sink(partial(os.write, own), partial(_wait_for_room, own), close)
    return Sink(partial(os.write, descriptor))  # a file never waits for a reader


def _send(connection: socket.socket, line: bytes) -> int:
    return connection.send(line, socket.MSG_DONTWAIT)


def _wait_for_room(descriptor: int, seconds: float) -> None:
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    room.poll(None if seconds == inf else seconds * 1000)


def _reopened(descriptor: int) -> int:
    """Return a non-blocking descriptor of the same pipe or terminal. Raises OSError."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(f"/proc/self/fd/{descriptor}", flags)


class ThreadedSink:
    """Writes one line at a time in a thread, which alone waits for the reader.

    For a pipe or terminal of another user: it cannot be opened again, and the process that started
    us shares the descriptor's mode.
    """

    def __init__(self, descriptor: int) -> None:
        import threading  # noqa: PLC0415 - rarely needed

        self._descriptor = descriptor
        self._line = b""
        self._given, self.idle = threading.Semaphore(0), threading.Event()
        self.idle.set()
        threading.Thread(target=self._work, daemon=True).start()

    def send(self, line: bytes) -> int:
        """Give the thread a line. Raises BlockingIOError while it writes the one before."""
        if not self.idle.is_set():
            raise BlockingIOError
        self.idle.clear()
        self._line = line
        self._given.release()
        return len(line)

    def wait(self, seconds: float) -> None:
        """Wait until the thread takes the next line."""
        self.idle.wait(seconds)

    def _work(self) -> None:
        while True:
            self._given.acquire()
            with suppress(OSError):
                while self._line:
                    self._write_some()
            self.idle.set()

    def _write_some(self) -> None:
        try:
            self._line = self._line[os.write(self._descriptor, self._line) :]
        except BlockingIOError:  # another process that shares it set O_NONBLOCK
            _wait_for_room(self._descriptor, inf)
