"""Writing lines without ever waiting for their reader.

A reader that has stopped (a full pipe, Ctrl-S in a terminal, a journal that hangs) costs lines, not
the loop: a bounded number of bytes is queued, then lines are dropped. A reader that has left or a
full disk costs lines too. All that are lost are counted, and reported with the next line that is
written.
"""

from __future__ import annotations

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

#: Bytes of lines that are queued for a reader that has stopped.
MOST_QUEUED = 1 << 20

#: Seconds between two attempts to write what is queued; each new line makes one too.
RETRY = 0.25


class Way(NamedTuple):
    """How lines reach a reader."""

    send: Callable[[bytes], int]
    """Write without waiting; return how many bytes. Raises BlockingIOError, OSError."""
    wait: Callable[[float], object]
    """Wait at most so many seconds until something may be written."""
    close: Callable[[], None]


class NonBlockingWriter:
    """Writes whole lines in their order, and reports how many were dropped once there is room."""

    def __init__(
        self,
        way: Way,
        *,
        report: Callable[[int], None],
        clock: Callable[[], Instant] = times.instant,
    ) -> None:
        """`report` is called with the number of lines that were dropped; it may `write` a line."""
        self._way = way
        self._report = report
        self._clock = clock
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._lost = 0
        self._failing = False
        """The last attempt met an error: a report would be lost too."""
        self._begun = False
        """The line at hand was written in part."""
        self._torn = False
        """A line was lost after a part of it was written: the next begins on a line of its own."""
        self.due = Instant(inf)
        """When to `retry`; never while nothing is queued."""

    def write(self, line: bytes) -> None:
        """Write a line, queue it, or lose it and count it."""
        self._flush()
        if self._queue and (self._lost or self._queued + len(line) > MOST_QUEUED):
            self._lost += 1  # until the queue is empty: the lines that are left are consecutive
        elif rest := line if self._queue else self._attempt(line):
            self._queue.append(rest)
            self._queued += len(rest)
            self.due = Instant(self._clock() + RETRY)
        self._report_lost()

    def retry(self) -> None:
        """Write what is queued, as far as the reader has made room."""
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
        """Whether to report what was lost: the reader takes lines, and has all that were queued."""
        return self._lost > 0 and not self._queue and not self._failing

    def _report_lost(self) -> None:
        if self._is_due:
            lost, self._lost = self._lost, 0
            self._report(lost)
            if self._failing:  # the report is lost as well, and counted
                self._lost += lost

    def close(self, *, within: float) -> None:
        """Give a reader so many seconds to take what is queued; its descriptor stays open."""
        give_up_at = self._clock() + within
        while self._queue and (left := give_up_at - self._clock()) > 0:
            self._way.wait(left)
            self.retry()
        self._way.wait(max(0.0, give_up_at - self._clock()))
        self._queue.clear()
        self._way.close()
        self._way = Way(_nowhere, _at_once, _given_back)

    def _attempt(self, line: bytes) -> bytes:
        """Return what the reader has no room for."""
        if self._torn:
            line, self._torn = b"\n" + line, False
        try:
            while line:
                line = line[self._way.send(line) :]
                self._begun, self._failing = bool(line), False
        except BlockingIOError:
            return line
        except OSError:  # a full disk, a closed pipe: the line is lost, its writer goes on
            self._torn, self._failing = self._begun, True
            self._lost += 1
        return b""


def way_to(descriptor: int) -> Way:
    """Return how bytes are written without waiting.

    The descriptor itself keeps its mode: it is shared with whoever started us.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(descriptor))
        send = partial(_send, connection)
        return Way(send, partial(_wait_for_room, descriptor), connection.close)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            own = _reopened(descriptor)
        except OSError:  # another user's, or one without a reader
            behind = _Behind(descriptor)
            return Way(behind.send, behind.wait, _given_back)
        close = partial(os.close, own)
        return Way(partial(os.write, own), partial(_wait_for_room, own), close)
    return Way(partial(os.write, descriptor), _at_once, _given_back)  # nobody reads a file in step


def _send(connection: socket.socket, line: bytes) -> int:
    return connection.send(line, socket.MSG_DONTWAIT)


def _wait_for_room(descriptor: int, seconds: float) -> None:
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    room.poll(None if seconds == inf else seconds * 1000)


def _nowhere(line: bytes) -> int:
    return len(line)


def _at_once(_seconds: float) -> None:
    """Wait for nothing: a file has room, or an error."""


def _given_back() -> None:
    """Give nothing back: nothing was taken."""


def _reopened(descriptor: int) -> int:
    """Return a descriptor of the same pipe or terminal that does not wait. Raises OSError."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(f"/proc/self/fd/{descriptor}", flags)


class _Behind:
    """Writes one line at a time in a thread of its own, which alone may wait for the reader.

    For a pipe or terminal of another user: it cannot be opened anew, and the descriptor's mode is
    shared with whoever started us.
    """

    def __init__(self, descriptor: int) -> None:
        import threading  # noqa: PLC0415 - hardly ever needed

        self._descriptor = descriptor
        self._line = b""
        self._given, self._idle = threading.Semaphore(0), threading.Event()
        self._idle.set()
        threading.Thread(target=self._work, daemon=True).start()

    def send(self, line: bytes) -> int:
        """Give the thread a line. Raises BlockingIOError while it is still at the one before."""
        if not self._idle.is_set():
            raise BlockingIOError
        self._idle.clear()
        self._line = line
        self._given.release()
        return len(line)

    def wait(self, seconds: float) -> None:
        """Wait until the next line may be given."""
        self._idle.wait(seconds)

    def _work(self) -> None:
        while True:
            self._given.acquire()
            with suppress(OSError):
                while self._line:
                    self._write_some()
            self._idle.set()

    def _write_some(self) -> None:
        try:
            self._line = self._line[os.write(self._descriptor, self._line) :]
        except BlockingIOError:  # somebody who shares the descriptor set O_NONBLOCK
            _wait_for_room(self._descriptor, inf)
