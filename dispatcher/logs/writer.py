"""Writing lines to a descriptor without ever waiting for its reader.

A reader that has stopped (a full pipe, Ctrl-S in a terminal, a journal that hangs) costs lines, not
the loop: a bounded number of bytes is queued, then lines are dropped and counted.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable
from math import inf

from dispatcher import times
from dispatcher.times import Instant

#: Bytes of lines that are queued for a reader that has stopped.
MOST_QUEUED = 1 << 20

#: Seconds between two attempts to write what is queued; each new line makes one too.
RETRY = 0.25

#: Bytes that a pipe takes whole, without waiting, once poll(2) calls it writable: pipe(7).
_ATOMIC = select.PIPE_BUF


class NonBlockingWriter:
    """Writes whole lines in their order, and reports how many were dropped once there is room."""

    def __init__(
        self,
        descriptor: int,
        *,
        report: Callable[[int], None],
        clock: Callable[[], Instant] = times.instant,
    ) -> None:
        """`report` is called with the number of lines that were dropped; it may `write` a line."""
        self._descriptor = descriptor
        self._send, self._close = _way_to(descriptor)
        self._report = report
        self._clock = clock
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._dropped = 0
        self.due = Instant(inf)
        """When to `retry`; never while nothing is queued."""

    def write(self, line: bytes) -> None:
        """Write a line, queue it, or drop it. A line that an error keeps out is lost."""
        if self._queue:
            self.retry()
        if not self._queue:
            line = self._attempt(line)
        if not line:
            return
        if self._dropped or self._queued + len(line) > MOST_QUEUED:
            self._dropped += 1  # until the queue is empty: the lines that are left are consecutive
            return
        self._queue.append(line)
        self._queued += len(line)
        self.due = Instant(self._clock() + RETRY)

    def retry(self) -> None:
        """Write what is queued, as far as the reader has made room."""
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
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._report(dropped)

    def close(self, *, within: float) -> None:
        """Give a reader so many seconds to take what is queued; its descriptor stays open."""
        give_up_at = self._clock() + within
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        while self._queue and (left := give_up_at - self._clock()) > 0:
            room.poll(left * 1000)
            self.retry()
        self._queue.clear()
        self._close()
        self._close = lambda: None

    def _attempt(self, line: bytes) -> bytes:
        """Return what the reader has no room for."""
        try:
            while line:
                line = line[self._send(line) :]
        except BlockingIOError:
            return line
        except OSError:  # a full disk, a closed pipe: the line is lost, its writer goes on
            return b""
        return b""


def _way_to(descriptor: int) -> tuple[Callable[[bytes], int], Callable[[], None]]:
    """Return how bytes are written without waiting, and what gives back the means for it.

    The descriptor itself keeps its mode: it is shared with whoever started us.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(descriptor))
        return (lambda line: connection.send(line, socket.MSG_DONTWAIT)), connection.close
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            own = _reopened(descriptor)
        except OSError:  # another user's pipe, or one without a reader
            return _polled(descriptor), lambda: None
        return (lambda line: os.write(own, line)), lambda: os.close(own)
    return (lambda line: os.write(descriptor, line)), lambda: None  # a file: nobody reads in step


def _reopened(descriptor: int) -> int:
    """Return a descriptor of the same pipe or terminal that does not wait. Raises OSError."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(f"/proc/self/fd/{descriptor}", flags)


def _polled(descriptor: int) -> Callable[[bytes], int]:
    room = select.poll()
    room.register(descriptor, select.POLLOUT)

    def send(line: bytes) -> int:
        if not room.poll(0):
            raise BlockingIOError
        return os.write(descriptor, line[:_ATOMIC])

    return send
