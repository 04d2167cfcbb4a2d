"""Signals as something to wait on, and not in the middle of what others wait for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

#: What a terminal stops a process with.
_STOPS = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


@contextmanager
def unstopped() -> Iterator[None]:
    """Let no Ctrl-Z stop this thread in the body: it does so at its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Signals:
    """While it is entered, each of these signals only leaves its number in a pipe."""

    def __init__(self, handled: Sequence[signal.Signals]) -> None:
        self._handled = handled
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for signum in self._handled:
            signal.signal(signum, lambda *_: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(-1)
        for signum in self._handled:
            signal.signal(signum, signal.SIG_DFL)
        os.close(self.reader)
        os.close(self._writer)

    def arrived(self) -> list[signal.Signals]:
        """Return the signals that came since the last call."""
        try:
            return [signal.Signals(number) for number in os.read(self.reader, 256)]
        except BlockingIOError:
            return []
