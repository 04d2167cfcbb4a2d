"""The metrics' file, kept fresh for the node exporter, by a short-lived process of its own.

Counting every task takes a while where there are many, and a disk may hang: neither may hold up the
daemon's loop.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import structlog

from dispatcher.config.config import Config
from dispatcher.daemon import children
from dispatcher.daemon.launcher import NOT_INHERITED
from dispatcher.times import NEVER, Instant

log = structlog.get_logger()

#: Seconds after which a reason that did not change is told again.
TELL_AGAIN = 3600.0

#: Seconds after which a writer is complained of.
SLOW = 60.0

#: Seconds that a writer gets to go when the daemon stops.
PATIENCE = 2.0


class Textfile:
    """Starts one writer each interval, if the configuration names a file; never waits for it."""

    def __init__(self, selector: selectors.BaseSelector, *, config: Config) -> None:
        self.due = NEVER
        """When to call `keep_up`."""
        self._selector = selector
        self._writer: _Writer | None = None
        self._started_at = NEVER
        self._told: tuple[str, Instant] | None = None
        """Why the file could not be written, and when that was told; None while it can."""
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Go by this configuration from now on; begin at once."""
        self._interval = config.metrics.interval_ms / 1000
        self._command = [sys.executable, "-P", "-m", "dispatcher", "metrics"]
        self._command += ["--config", str(config.file), "--textfile", str(config.metrics.textfile)]
        self.due = NEVER if config.metrics.textfile is None else Instant(0.0)

    def keep_up(self, *, at: Instant) -> None:
        """Start a writer; not a second one beside one that still runs."""
        self.due = Instant(at + self._interval)
        if self._writer is not None:
            if at - self._started_at >= SLOW:
                self._fail(f"the last writer has not ended within {SLOW:g} s", at)
            return
        self._started_at = at
        try:
            self._writer = _Writer(self._command)
        except OSError as error:
            self._fail(f"cannot start a process: {error.strerror}", at)
        else:
            self._selector.register(self._writer.end, selectors.EVENT_READ, self._hear)

    def close(self) -> None:
        """End the writer, if there is one: what it did not put in place is not there."""
        if self._writer is not None:
            self._writer.process.terminate()
            self._part_with(self._writer)

    def _hear(self, at: Instant, _: int) -> None:
        """Bury the writer, and tell if it could not write."""
        assert self._writer is not None
        said = self._writer.said()
        if exit_code := self._part_with(self._writer):
            self._fail(said or f"exit code {exit_code}", at)
        elif self._told is not None:
            self._told = None
            log.info("metrics.written", path=self._command[-1])

    def _part_with(self, writer: _Writer) -> int | None:
        self._selector.unregister(writer.end)
        self._writer = None
        return writer.bury()

    def _fail(self, reason: str, at: Instant) -> None:
        told = self._told
        if told is None or told[0] != reason or at - told[1] >= TELL_AGAIN:
            self._told = reason, at
            log.warning("metrics.unwritten", path=self._command[-1], reason=reason)


class _Writer:
    """A process that writes the file once."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Raises OSError."""
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
            self.bury()
            raise

    def said(self) -> str:
        """Return what it complained of before it ended."""
        assert self.process.stderr is not None
        said = os.read(self.process.stderr.fileno(), 4096)
        return said.decode(errors="replace").strip().removeprefix("dispatcher: ")

    def bury(self) -> int | None:
        """Close what belongs to it; return its exit code, None if it would not end."""
        assert self.process.stderr is not None
        self.process.stderr.close()
        if self.end >= 0:
            os.close(self.end)
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(PATIENCE)
        return None
