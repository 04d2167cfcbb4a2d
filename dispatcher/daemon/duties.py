"""Work of the loop apart from tasks: each duty does what is due and returns its next call."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.daemon_report import DaemonReport, ExecutorState
from dispatcher.host import background
from dispatcher.host.notify import Notifier
from dispatcher.host.runtime_directory import BoundSocket, RuntimeDirectory
from dispatcher.logs import logs
from dispatcher.store.bell import Bell
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.times import NEVER, Instant

log = structlog.get_logger()

#: Seconds between two reports to the service manager.
STATUS_INTERVAL = 1.0

#: Seconds between two looks at the size of a log file.
LOG_INTERVAL = 10.0

Duty = Callable[[Instant], Instant]


def when_due(act: Duty) -> Duty:
    """Return a duty that calls `act` only when the instant has come that it returned."""
    due = Instant(0.0)

    def duty(at: Instant) -> Instant:
        nonlocal due
        if at >= due:
            due = act(at)
        return due

    return duty


def write_logs(at: Instant) -> Instant:
    """Write what a slow reader of the log left over."""
    if at >= logs.due():
        logs.flush(at)
    return logs.due()


def watch_bell(bell: Bell) -> Duty:
    """Return the duty to log when rings cease to arrive, and when they do again."""
    known: str | None = None

    def duty(_: Instant) -> Instant:
        nonlocal known
        if bell.failure is None and known is not None:
            log.info("bell.restored")
        elif bell.failure is not None and known is None:
            log.warning("bell.silent", reason=bell.failure)
        known = bell.failure
        return NEVER

    return duty


def bound_log(file: Path) -> Duty:
    """Return the duty to go on in a new log file when the present one is full."""

    def look(at: Instant) -> Instant:
        with suppress(OSError):  # as on a full disk: the log goes on where it is
            background.bound_log(file, background.outputs())
        return Instant(at + LOG_INTERVAL)

    return when_due(look)


def restore_names(runtime: RuntimeDirectory, names: Sequence[BoundSocket]) -> Duty:
    """Return the duty to recreate what was removed from the runtime directory."""

    def look(at: Instant) -> Instant:
        look = runtime.look(names, at=at)
        if look.lost is not None:
            log.warning("runtime.lost", reason=look.lost)
        if look.restored is not None:
            log.warning("runtime.restored", names=look.restored)
        return runtime.due

    return when_due(look)


class ManagerReports:
    """Reports the daemon's state to the service manager after each turn."""

    def __init__(
        self, notifier: Notifier, supervisor: Supervisor, executor: ExecutorClient
    ) -> None:
        self._notifier = notifier
        self._supervisor = supervisor
        self._executor = executor
        self._reported_at = Instant(0.0)

    def run_due(self, at: Instant) -> Instant:
        """Send a sign of life, and at intervals the state; return when to be called again."""
        notifier = self._notifier
        notifier.send_sign_of_life(at=at)
        if not notifier.is_ready or at - self._reported_at >= STATUS_INTERVAL:
            self._reported_at = at
            report = self._supervisor.report(at=at)
            notifier.report_status(report.in_a_line())
            if self._is_current(report):
                notifier.report_ready()
            if report.stopping:
                notifier.extend_stop(at=at)
        return Instant(at + min(STATUS_INTERVAL, notifier.interval or STATUS_INTERVAL))

    def _is_current(self, report: DaemonReport) -> bool:
        """Return whether the store answered and holds what the executor knows (R-60).

        An executor that does not listen is not waited for: its unit may start after this one.
        """
        awaited = report.executor is ExecutorState.WAITING and not self._executor.missing
        return report.store_silent_for_s is None and not awaited
