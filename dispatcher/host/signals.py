"""Signals as something to wait on, and stops held back from critical work."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

#: The signals by which a terminal stops a process.
_STOPS = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


@contextmanager
def unstopped() -> Iterator[None]:
    """Delay Ctrl-Z in this thread until the end of the body."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Signals:
    """A pipe that receives the numbers of caught signals."""

    def __init__(self, reader: int) -> None:
        self.reader = reader
        """A descriptor that is readable when a signal has arrived."""

    def arrived(self) -> list[signal.Signals]:
        """Return the signals since the last call."""
        try:
            return [signal.Signals(number) for number in os.read(self.reader, 256)]
        except BlockingIOError:
            return []


@contextmanager
def caught(handled: Sequence[signal.Signals]) -> Iterator[Signals]:
    """Let these signals do nothing but write their numbers into a pipe, in the body."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for signum in handled:
        signal.signal(signum, lambda *_: None)
    try:
        yield Signals(reader)
    finally:
        signal.set_wakeup_fd(-1)
        for signum in handled:
            signal.signal(signum, signal.SIG_DFL)
        os.close(reader)
        os.close(writer)
