"""The embedded executor: started by the daemon when none listens, outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
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

#: Seconds until an executor that would not stay is started again: first, and at most.
RELAUNCH = (0.1, 5.0)

#: Seconds that a living executor gets to listen: when its socket was removed, it makes it again.
FOUND_WITHIN = 3 * LOOK_INTERVAL

#: Seconds after which a start counts as good, and the next failure as the first.
SETTLED = 10.0

#: Bytes of the end of its log in which an executor's last word is looked for, and characters of
#: it that are shown.
LAST_WORDS = 16 * 1024
MOST_SHOWN = 500

#: What systemd says to the daemon alone.
NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


class Launcher(Protocol):
    """Starts an executor when none listens."""

    def ensure_running(self, *, at: Instant) -> None:
        """Start one, unless one that was started before still runs."""

    @property
    def last_error(self) -> str | None:
        """The last error of the last one, if it exited early; None: it stayed, or left none."""


class _Said(msgspec.Struct):
    """A line of the executor's log."""

    error: str = ""


class EmbeddedLauncher:
    """Starts executors in sessions of their own, one at a time."""

    def __init__(
        self, *, state_dir: Path, runtime_dir: Path, node_id: str, log_format: str = "json"
    ) -> None:
        """`log_format` is "journal" where the executor's log becomes records of the journal; else,
        and its errors in any case, it goes to `executor.log`.
        """
        self._command = [
            *(sys.executable, "-P", "-m", "dispatcher.executor", "--embedded"),
            *("--state-dir", str(state_dir), "--runtime-dir", str(runtime_dir)),
            *("--node-id", node_id, "--log-format", log_format),
        ]
        self._log_file = state_dir / "executor.log"
        self._log_began = 0
        self._lock_file = state_dir / locks.EXECUTOR_LOCK
        self._missed_since: Instant | None = None
        """Since when one lives that cannot be reached."""
        self._child: subprocess.Popen[bytes] | None = None
        self.last_error: str | None = None
        """Why the last one did not stay, as it said; None: it stayed, or said nothing."""
        self._launched_at = Instant(0.0)
        self._backoff = Backoff(*RELAUNCH)
        self._retry_at = Instant(0.0)

    def ensure_running(self, *, at: Instant) -> None:
        """Start an executor, unless one that was started before still runs or failed just now."""
        self._look_after(at)
        if self._child is not None or at < self._retry_at or self._is_coming(at):
            return
        try:
            self._child = self._launch()
        except OSError as error:  # the host's fault, and perhaps a passing one
            self._wait_longer(at)
            self.last_error = f"cannot start an executor: {error}"
            log.warning("daemon.waiting", reason=self.last_error)
            return
        self._launched_at = at
        log.info("executor.started", executor_pid=self._child.pid)

    def _is_coming(self, at: Instant) -> bool:
        """Say whether to wait for one that lives; for good it would be refused by its lock."""
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
        with open(self._log_file, "ab", opener=_at_once) as log_file:
            self._log_began = log_file.tell()
            return children.start(
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
            self.last_error = self._last_word()
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

    def _last_word(self) -> str | None:
        """Return the error that the executor's log ends with, or what Python wrote there."""
        try:
            with files.opened(self._log_file) as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_began, end - LAST_WORDS))
                said = file.read(LAST_WORDS).strip()
        except OSError:
            return None
        line = said.rpartition(b"\n")[2]
        with suppress(*UNREADABLE):
            return _shown(msgspec.json.decode(line, type=_Said).error)
        return _shown(line.decode(errors="replace"))

    def _wait_longer(self, at: Instant) -> None:
        self._retry_at = Instant(at + self._backoff.grow())


def _shown(error: str) -> str | None:
    """Return the last line of an error: of a traceback that is what went wrong."""
    return error.strip().rpartition("\n")[2][:MOST_SHOWN] or None


def _at_once(path: str, flags: int) -> int:
    """Open a log; a FIFO that nobody reads is an error, and nothing to wait for."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)
