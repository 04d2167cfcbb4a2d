"""Commands of operators to a running daemon: signals, and requests on the control socket."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection
from contextlib import suppress

import msgspec
import structlog

from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.config.reload import Reloaded
from dispatcher.daemon.channel import Reply
from dispatcher.daemon_report import OutputReport
from dispatcher.errors import ConfigError
from dispatcher.host.notify import Notifier
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.times import Instant, instant
from dispatcher.worker_api import WorkerError

log = structlog.get_logger()

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ControlRequest(msgspec.Struct):
    """A line that the command line sends to a running daemon."""

    op: str


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
        notifier: Notifier | None = None,
    ) -> None:
        self.on_stop = on_stop
        """What a stop signal does."""
        self._supervisor = supervisor
        self._reconfigure = reconfigure
        self._output_report = output_report
        self._metrics_unwritten = metrics_unwritten
        self._notifier = notifier

    def obey_signals(self, arrived: Collection[signal.Signals], *, at: Instant) -> None:
        """Obey the signals of one turn: several that stop count once."""
        for signum in arrived:
            log.info("daemon.signalled", signal=signum.name)
        if signal.SIGHUP in arrived:
            with suppress(ConfigError):  # logged, and the old configuration holds
                self._reload()
        if not frozenset(STOP_SIGNALS).isdisjoint(arrived):
            if self._notifier is not None:
                self._notifier.report_stopping()
            self._supervisor.stop(self.on_stop, at=at)

    def handle_request(self, line: bytes, reply: Reply, _pid: int) -> bool:
        """Answer a line from the control socket; return whether it is valid JSON for a request."""
        try:
            request = msgspec.json.decode(line, type=ControlRequest)
        except UNREADABLE as error:
            reply({"ok": False, "error": WorkerError.INVALID, "message": in_words(error)})
            return False
        match request.op:
            case "wake":
                reply({"ok": True})  # any arrival turns the loop, which looks for work
            case "status":
                report = self._supervisor.report(at=instant())
                output, unwritten = self._output_report(), self._metrics_unwritten()
                reply(msgspec.structs.replace(report, output=output, metrics_unwritten=unwritten))
            case "reload":
                try:
                    reply({"ok": True, **_changes(self._reload())})
                except ConfigError as error:
                    reply({"ok": False, "error": "config_refused", "message": str(error)})
            case unknown:
                message = f"unknown op {unknown!r}; there are wake, status and reload"
                reply({"ok": False, "error": WorkerError.INVALID, "message": message})
        return True

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
