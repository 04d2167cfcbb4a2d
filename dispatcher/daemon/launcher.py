"""The embedded executor: started by the daemon when none listens, outlives it."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from dispatcher.backoff import Backoff
from dispatcher.complaints import UNREADABLE
from dispatcher.daemon import children
from dispatcher.host import files, locks
from dispatcher.host.runtime_directory import LOOK_INTERVAL
from dispatcher.times import Instant

log = structlog.get_logger()

#: Seconds until an executor that exited early is started again: first, and at most.
RELAUNCH = (0.1, 5.0)

#: Seconds that a living executor has to listen again: it recreates a removed socket.
FOUND_WITHIN = 3 * LOOK_INTERVAL

#: Seconds after which a start counts as good, and the next failure as the first.
SETTLED = 10.0

#: Bytes of the end of an executor's log that are searched for its last error, and characters of
#: the error that are shown.
LOG_TAIL = 16 * 1024
MOST_SHOWN = 500

#: Variables that systemd sets for the daemon alone.
NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


class Launcher(Protocol):
    """Starts an executor when none listens."""

    def ensure_running(self, *, at: Instant) -> None:
        """Start one, unless one that was started before still runs."""

    @property
    def last_error(self) -> str | None:
        """The last error of the last one, if it exited early; None: it stayed, or left none."""


class _LogLine(msgspec.Struct):
    error: str = ""


class EmbeddedLauncher:
    """Starts executors in sessions of their own, one at a time."""

    def __init__(
        self,
        *,
        state_dir: Path,
        runtime_dir: Path,
        node_id: str,
        log_format: str = "json",
        start: Callable[..., subprocess.Popen[bytes]] = children.start,
    ) -> None:
        """With the `log_format` "journal" only errors go to `executor.log`, otherwise all lines."""
        self._start = start
        self._command = [
            *(sys.executable, "-P", "-m", "dispatcher.executor", "--embedded"),
            *("--state-dir", str(state_dir), "--runtime-dir", str(runtime_dir)),
            *("--node-id", node_id, "--log-format", log_format),
        ]
        self._log_file = state_dir / "executor.log"
        self._log_began = 0
        self._lock_file = state_dir / locks.EXECUTOR_LOCK
        self._missed_since: Instant | None = None
        """Since when an executor lives and does not listen."""
        self._child: subprocess.Popen[bytes] | None = None
        self.last_error: str | None = None
        """The last error of the last one, if it exited early; None: it stayed, or left none."""
        self._launched_at = Instant(0.0)
        self._backoff = Backoff(*RELAUNCH)
        self._retry_at = Instant(0.0)

    def ensure_running(self, *, at: Instant) -> None:
        """Start an executor, unless one that was started before still runs or failed just now."""
        self._reap(at)
        if self._child is not None or at < self._retry_at or self._may_come_back(at):
            return
        try:
            self._child = self._launch()
        except OSError as error:  # the host's, and perhaps temporary
            self._postpone(at)
            self.last_error = f"cannot start an executor: {error}"
            log.warning("daemon.waiting", reason=self.last_error)
            return
        self._launched_at = at
        log.info("executor.started", executor_pid=self._child.pid)

    def _may_come_back(self, at: Instant) -> bool:
        """Return whether to wait for a living executor, whose lock would refuse another."""
        if (pid := locks.holder_of(self._lock_file)) is None:
            self._missed_since = None
            return False
        if self._missed_since is None:
            self._missed_since = at
            reason = f"the executor (pid {pid}) lives and does not listen: its socket is missing"
            log.warning("daemon.waiting", reason=reason)
        return at - self._missed_since < FOUND_WITHIN

    def _launch(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        with open(self._log_file, "ab", opener=_without_waiting) as log_file:
            self._log_began = log_file.tell()
            return self._start(
                self._command,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log_file,
                start_new_session=True,
            )

    def _reap(self, at: Instant) -> None:
        if self._child is None or self._child.poll() is None:
            return
        if at - self._launched_at < SETTLED:
            self._postpone(at)
            self.last_error = self._logged_error()
        else:
            self._backoff.reset()
            self._retry_at, self.last_error = at, None
        log.warning(
            "executor.exited",
            executor_pid=self._child.pid,
            exit_code=self._child.returncode,
            reason=self.last_error,
        )
        self._child = None

    def _logged_error(self) -> str | None:
        """Return the error at the end of the executor's log, of a log line or of Python."""
        try:
            with files.opened(self._log_file) as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_began, end - LOG_TAIL))
                tail = file.read(LOG_TAIL).strip()
        except OSError:
            return None
        line = tail.rpartition(b"\n")[2]
        with suppress(*UNREADABLE):
            return _last_line(msgspec.json.decode(line, type=_LogLine).error)
        return _last_line(line.decode(errors="replace"))

    def _postpone(self, at: Instant) -> None:
        self._retry_at = Instant(at + self._backoff.grow())


def _last_line(error: str) -> str | None:
    """Return the last line of an error: that of a traceback names it."""
    return error.strip().rpartition("\n")[2][:MOST_SHOWN] or None


def _without_waiting(path: str, flags: int) -> int:
    """Open a log; a FIFO without a reader is an error, and does not block."""
    return os.open(path, flags | os.O_NONBLOCK, 0o600)
