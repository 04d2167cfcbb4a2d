"""The listener of this node: a process of the daemon's that gives runs' output to other nodes.

TLS, peers that send nothing and disks that hang are its own: none of them holds up the daemon's
loop (ADR 25).
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import structlog

from dispatcher.backoff import Backoff
from dispatcher.config.config import Config
from dispatcher.daemon import children
from dispatcher.daemon.launcher import NOT_INHERITED
from dispatcher.peers.contract import ListenerReport
from dispatcher.times import NEVER, Instant

log = structlog.get_logger()

COMMAND = (sys.executable, "-P", "-m", "dispatcher.peers.listener")

#: Seconds until a listener that ended is started again: first, and at most.
AGAIN = (1.0, 60.0)

#: Seconds that a listener has to end when the daemon stops.
PATIENCE = 2.0

#: Bytes that are read of it at once; it reports at most a line a second.
_MOST = 64 * 1024


class Listener:
    """Keeps a listener running while the configuration names an address; never waits for it."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        *,
        config: Config,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._selector = selector
        self._command = command
        self._process: _Process | None = None
        self._backoff = Backoff(*AGAIN)
        self._failure: str | None = None
        self._is_replaced = False
        """Whether the process ends because another one is to take its place."""
        self.configure(config)

    def failure(self) -> str | None:
        """Return why the listener does not run; None: it runs, or is not configured."""
        return self._failure

    def configure(self, config: Config) -> None:
        """Use this configuration, and its files as they are now, from now on."""
        self._config = config
        self._due = NEVER if config.peers.listen is None else Instant(0.0)
        self._failure = None
        self._backoff.reset()
        if self._process is not None:
            self._is_replaced = True
            self._process.end()

    def run_due(self, at: Instant) -> Instant:
        """Start a listener when one is due, and none runs; return when the next is due."""
        if at >= self._due and self._process is None:
            self._due = NEVER
            self._start(at)
        return self._due if self._process is None else NEVER

    def close(self) -> None:
        """End the listener, if one runs."""
        if (process := self._process) is not None:
            process.end()
            self._forget(process)

    def _start(self, at: Instant) -> None:
        try:
            process = _Process(self._command, self._config)
        except OSError as error:
            self._fail(f"cannot start a process: {error.strerror}", at)
            return
        self._process = process
        self._selector.register(process.end_of_it, selectors.EVENT_READ, self._finish)
        self._selector.register(process.lines, selectors.EVENT_READ, self._read)

    def _read(self, *_: object) -> None:
        if self._process is None:  # it ended in this very turn
            return
        for line in self._process.read(self._selector):
            try:
                report = msgspec.json.decode(line, type=ListenerReport)
            except msgspec.DecodeError:  # an error, after which it ends
                self._process.last_words = line.decode(errors="replace")
                continue
            if report.refused:
                log.warning("listener.refused", peer=report.peer, reason=report.refused)
            if report.ready:
                self._failure = None
                self._backoff.reset()
                log.info("listener.started", address=self._config.peers.announced)

    def _finish(self, at: Instant, _: int) -> None:
        self._read()
        process, replaced = self._process, self._is_replaced
        assert process is not None
        exit_code = self._forget(process)
        self._is_replaced = False
        if not replaced:
            self._fail(process.last_words or f"exit code {exit_code}", at)

    def _fail(self, reason: str, at: Instant) -> None:
        if reason != self._failure:
            log.warning("listener.failed", reason=reason)
        self._failure = reason
        self._due = Instant(at + self._backoff.grow())

    def _forget(self, process: _Process) -> int | None:
        self._process = None
        self._selector.unregister(process.end_of_it)
        with suppress(KeyError):  # it has closed its end
            self._selector.unregister(process.lines)
        return process.reap()


class _Process:
    """A listener that was started."""

    def __init__(self, command: Sequence[str], config: Config) -> None:
        self.last_words = ""
        self._rest = b""
        self._popen = children.start(
            [*command, str(config.output_dir), str(int(config.output.run_budget))],
            cwd="/",
            env={k: v for k, v in os.environ.items() if k not in NOT_INHERITED},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for the daemon, whose end ends it
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self.lines = self._popen.stdout.fileno()
        os.set_blocking(self.lines, False)
        self.end_of_it = -1
        try:
            self.end_of_it = os.pidfd_open(self._popen.pid)
            with suppress(BrokenPipeError):  # it has ended, and said why
                # A pipe holds more than that.
                os.write(self._popen.stdin.fileno(), msgspec.json.encode(config.peers) + b"\n")
        except OSError:
            self._popen.kill()
            self.reap()
            raise

    def read(self, selector: selectors.BaseSelector) -> list[bytes]:
        """Return the whole lines that it has written since the last call."""
        try:
            found = os.read(self.lines, _MOST)
        except BlockingIOError:
            return []
        if not found:
            with suppress(KeyError):
                selector.unregister(self.lines)
        *lines, self._rest = (self._rest + found).split(b"\n")
        self._rest = self._rest[-_MOST:]
        return [line for line in lines if line.strip()]

    def end(self) -> None:
        self._popen.terminate()

    def reap(self) -> int | None:
        """Close its descriptors; return its exit code, None if it has not ended in time."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        if self.end_of_it >= 0:
            os.close(self.end_of_it)
        with suppress(subprocess.TimeoutExpired):
            return self._popen.wait(PATIENCE)
        return None
