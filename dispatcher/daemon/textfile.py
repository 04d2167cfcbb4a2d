"""The metrics' file, kept fresh for the node exporter, by a short-lived process of its own.

Counting very many tasks takes a while, and a disk may hang: neither may hold up the daemon's loop.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from dispatcher.config.config import Config
from dispatcher.daemon import children
from dispatcher.daemon.launcher import NOT_INHERITED
from dispatcher.times import NEVER, Instant

log = structlog.get_logger()

#: Seconds after which an unchanged reason is logged again.
LOG_AGAIN = 3600.0

#: Seconds after which a running writer is logged as late.
SLOW = 60.0

#: Bytes that a pipe holds: pipe(7).
_PIPE_BYTES = 64 * 1024

_TRACEBACK = "Traceback (most recent call last)"

#: Seconds that a writer has to end when the daemon stops.
PATIENCE = 2.0


def writer_command(config: Config) -> list[str]:
    """Return the command that writes the file once."""
    words = [sys.executable, "-P", "-m", "dispatcher", "metrics"]
    return [*words, "--config", str(config.file), "--textfile", str(config.metrics.textfile)]


class Textfile:
    """Starts one writer each interval, if the configuration names a file; never waits for it."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        *,
        config: Config,
        command: Callable[[Config], Sequence[str]] = writer_command,
    ) -> None:
        self._selector = selector
        self._command = command
        self._writer: _Writer | None = None
        self._started_at = NEVER
        self._failure: tuple[str, Instant] | None = None
        """Why the last file was not written, and when that was logged; None after a success."""
        self.configure(config)

    def failure(self) -> str | None:
        """Return why the last file was not written; None: it was."""
        return None if self._failure is None else self._failure[0]

    def configure(self, config: Config) -> None:
        """Use this configuration from now on; begin at once."""
        self._config = config
        self._due = NEVER if config.metrics.textfile is None else Instant(0.0)
        if self._due == NEVER:
            self._failure = None

    def run_due(self, at: Instant) -> Instant:
        """Start a writer when one is due, unless the last still runs; return when the next is."""
        if at >= self._due:
            self._due = Instant(at + self._config.metrics.interval_ms / 1000)
            self._start(at)
        return self._due

    def _start(self, at: Instant) -> None:
        if self._writer is not None:
            if at - self._started_at >= SLOW:
                self._fail(f"the last writer has not ended within {SLOW:g} s", at)
            return
        self._started_at = at
        try:
            self._writer = _Writer(self._command(self._config))
        except OSError as error:
            self._fail(f"cannot start a process: {error.strerror}", at)
        else:
            self._selector.register(self._writer.end, selectors.EVENT_READ, self._finish)

    def close(self) -> None:
        """End the writer, if one runs; it replaces the file in one step or not at all."""
        if self._writer is not None:
            self._writer.process.terminate()
            self._reap(self._writer)

    def _finish(self, at: Instant, _: int) -> None:
        """Reap the writer, and log its error or the first success after one."""
        assert self._writer is not None
        error = self._writer.error()
        if exit_code := self._reap(self._writer):
            self._fail(error or f"exit code {exit_code}", at)
        elif self._failure is not None:
            self._failure = None
            log.info("metrics.written", path=str(self._config.metrics.textfile))

    def _reap(self, writer: _Writer) -> int | None:
        self._selector.unregister(writer.end)
        self._writer = None
        return writer.reap()

    def _fail(self, reason: str, at: Instant) -> None:
        last = self._failure
        if last is None or last[0] != reason or at - last[1] >= LOG_AGAIN:
            self._failure = reason, at
            path = str(self._config.metrics.textfile)
            log.warning("metrics.unwritten", path=path, reason=reason)


class _Writer:
    """A process that writes the file once."""

    def __init__(self, command: Sequence[str]) -> None:
        self.end = -1
        self.process = children.start(
            command,
            cwd="/",
            env={k: v for k, v in os.environ.items() if k not in NOT_INHERITED},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            self.end = os.pidfd_open(self.process.pid)
        except OSError:
            self.process.kill()
            self.reap()
            raise

    def error(self) -> str:
        """Return the message that it wrote before it ended."""
        assert self.process.stderr is not None
        written = (
            os.read(self.process.stderr.fileno(), _PIPE_BYTES).decode(errors="replace").strip()
        )
        if _TRACEBACK in written:  # as while an upgrade replaces its modules
            written = written.splitlines()[-1]
        return written.removeprefix("dispatcher: ")

    def reap(self) -> int | None:
        """Close its descriptors; return its exit code, None if it has not ended in time."""
        assert self.process.stderr is not None
        self.process.stderr.close()
        if self.end >= 0:
            os.close(self.end)
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(PATIENCE)
        return None
