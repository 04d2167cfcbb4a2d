"""The embedded executor: started by the daemon when none listens, outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import structlog

from dispatcher.times import Instant

log = structlog.get_logger()

#: Seconds until an executor that would not stay is started again: first, and at most.
RELAUNCH = (0.1, 5.0)

#: Seconds after which a start counts as good, and the next failure as the first.
SETTLED = 10.0

#: What systemd says to the daemon alone.
NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


class EmbeddedLauncher:
    """Starts executors in sessions of their own, one at a time."""

    def __init__(self, *, state_dir: Path, runtime_dir: Path, node_id: str) -> None:
        self._command = [
            *(sys.executable, "-m", "dispatcher.executor", "--embedded"),
            *("--state-dir", str(state_dir), "--runtime-dir", str(runtime_dir)),
            *("--node-id", node_id),
        ]
        self._log_file = state_dir / "executor.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._launched_at = Instant(0.0)
        self._delay = 0.0
        self._retry_at = Instant(0.0)

    def ensure_running(self, *, at: Instant) -> None:
        """Start an executor, unless one that was started before still runs or failed just now."""
        self._look_after(at)
        if self._child is not None or at < self._retry_at:
            return
        try:
            self._child = self._launch()
        except OSError as error:  # the host's fault, and perhaps a passing one
            self._wait_longer(at)
            log.warning("daemon.waiting", reason=f"cannot start an executor: {error}")
            return
        self._launched_at = at
        log.info("executor.started", executor_pid=self._child.pid)

    def _launch(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        with self._log_file.open("ab") as log_file:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and paths
                self._command,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log_file,
                start_new_session=True,
            )

    def _look_after(self, at: Instant) -> None:
        """Bury an executor that ended, and wait longer each time one would not stay."""
        if self._child is None or self._child.poll() is None:
            return
        if at - self._launched_at < SETTLED:
            self._wait_longer(at)
        else:
            self._delay, self._retry_at = 0.0, at
        log.warning(
            "executor.exited", executor_pid=self._child.pid, exit_code=self._child.returncode
        )
        self._child = None

    def _wait_longer(self, at: Instant) -> None:
        first, longest = RELAUNCH
        self._delay = min(longest, self._delay * 2 or first)
        self._retry_at = Instant(at + self._delay)
