"""Commands of operators to a running daemon: signals, and requests on the control socket."""

import os
import signal
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.config.reload import Reloaded, file_of
from dispatcher.daemon.channel import Reply
from dispatcher.daemon_report import DaemonReport, OutputReport
from dispatcher.errors import ConfigError
from dispatcher.host.notify import Notifier
from dispatcher.host.utf8 import as_utf8
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.times import Instant, instant
from dispatcher.worker_api import WorkerError

log = structlog.get_logger()

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ControlRequest(msgspec.Struct):
    """A line that the command line sends to a running daemon."""

    op: str
    file: str | None = None
    """The file to reload, as a path without links; None: the daemon's own."""
    how: Stop | None = None
    """How to stop; None: as configured."""


class Commands:
    """Carries out stop, reload, status and wake."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        on_stop: Stop,
        reconfigure: Callable[[], Reloaded],
        output_report: Callable[[], OutputReport | None] = lambda: None,
        metrics_unwritten: Callable[[], str | None] = lambda: None,
        listener_failure: Callable[[], str | None] = lambda: None,
        bell_failure: Callable[[], str | None] = lambda: None,
        notifier: Notifier | None = None,
    ) -> None:
        self.on_stop = on_stop
        """What a stop signal does."""
        self.file: Path | None = None
        """The file of the configuration in force; None: built-in defaults."""
        self.mistakes: Sequence[str] = ()
        """The mistakes of profiles in that file."""
        self._supervisor = supervisor
        self._reconfigure = reconfigure
        self._output_report = output_report
        self._metrics_unwritten = metrics_unwritten
        self._listener_failure = listener_failure
        self._bell_failure = bell_failure
        self._notifier = notifier

    def obey_signals(self, arrived: Collection[signal.Signals], *, at: Instant) -> None:
        """Obey the signals of one turn: several that stop count once."""
        for signum in arrived:
            log.info("daemon.signalled", signal=signum.name)
        if signal.SIGHUP in arrived:
            with suppress(ConfigError):  # logged, and the old configuration holds
                self._reload()
        if not frozenset(STOP_SIGNALS).isdisjoint(arrived):
            self._begin_stop(self.on_stop, at=at)

    def handle_request(self, line: bytes, reply: Reply, _pid: int) -> bool:
        """Answer a line from the control socket; return whether it is valid JSON for a request."""
        try:
            request = msgspec.json.decode(line, type=ControlRequest)
        except UNREADABLE as error:
            reply({"ok": False, "error": WorkerError.INVALID, "message": in_words(error)})
            return False
        match request.op:
            case "wake":
                self._supervisor.wake()  # any arrival turns the loop
                reply({"ok": True})
            case "status":
                reply(self._report())
            case "reload":
                reply(self._reload_if_own(request.file))
            case "stop":
                self._stop(request.how or self.on_stop)
                reply({"ok": True})
            case unknown:
                message = f"unknown op {unknown!r}; there are wake, status, reload and stop"
                reply({"ok": False, "error": WorkerError.INVALID, "message": message})
        return True

    def _report(self) -> DaemonReport:
        return msgspec.structs.replace(
            self._supervisor.report(at=instant()),
            output=self._output_report(),
            metrics_unwritten=self._metrics_unwritten(),
            listener_failure=self._listener_failure(),
            bell_failure=self._bell_failure(),
            config_file=None if self.file is None else as_utf8(str(self.file)),
            config_mistakes=tuple(map(as_utf8, self.mistakes)),
            managed=self._notifier is not None,
        )

    def _stop(self, how: Stop) -> None:
        """Begin to stop, unless it has begun: a second request ends no run sooner."""
        if how is Stop.AT_ONCE or self._supervisor.report(at=instant()).stopping is None:
            self._begin_stop(how, at=instant())

    def _begin_stop(self, how: Stop, *, at: Instant) -> None:
        if self._notifier is not None:
            self._notifier.report_stopping()
        self._supervisor.stop(how, at=at)

    def _reload_if_own(self, file: str | None) -> dict[str, object]:
        """Return the answer to a reload; one that means a file of others changes nothing."""
        own = file_of(self.file, os.environ)
        if file is not None and file != (own and as_utf8(os.path.realpath(own))):
            return {"ok": False, "error": "other_file", "file": own and as_utf8(str(own))}
        try:
            changes = _changes(self._reload())
        except ConfigError as error:
            return {"ok": False, "error": "config_refused", "message": str(error)}
        return {"ok": True, **changes, "mistakes": [*map(as_utf8, self.mistakes)]}

    def _reload(self) -> Reloaded:
        """Read the configuration again. Raises `ConfigError` once it is logged."""
        if self._notifier is not None:
            self._notifier.report_reloading()
        try:
            reloaded = self._reconfigure()
        except ConfigError as error:
            log.error("config.refused", mistakes=str(error).splitlines())  # noqa: TRY400 - no bug
            raise
        log.info("config.reloaded", **_changes(reloaded))
        return reloaded


def _changes(reloaded: Reloaded) -> dict[str, object]:
    """Return what a reload changed, and what it kept until a restart, as JSON values."""
    return {
        "changed": {key: change._asdict() for key, change in reloaded.changed.items()},
        "kept": {key: change._asdict() for key, change in reloaded.kept.items()},
    }
