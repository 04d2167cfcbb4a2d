"""The loop: waits for something to happen or to be due, hears it, ticks, says what follows."""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import msgspec
import structlog

from dispatcher import wire, worker_api
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.config.reload import Reloaded
from dispatcher.daemon import channels, children
from dispatcher.daemon.channels import Channel, Reply
from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.daemon.outputs import OutputDirectory
from dispatcher.daemon.textfile import Textfile
from dispatcher.daemon.worker_channel import NOT_ALLOWED, WorkerChannel
from dispatcher.daemon_report import DaemonReport, ExecutorState
from dispatcher.errors import ConfigError
from dispatcher.executor_api import Event
from dispatcher.host.notify import Notifier
from dispatcher.host.runtime_directory import BoundSocket, RuntimeDirectory
from dispatcher.host.signals import Signals
from dispatcher.logs import logs
from dispatcher.supervisor.supervisor import Stop, Supervisor
from dispatcher.supervisor.turn import Request
from dispatcher.times import Instant, instant

log = structlog.get_logger()

#: Seconds between two looks at what the service manager is told.
STATUS_INTERVAL = 1.0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Loop:
    """One loop: wait for something, hear it, tick, say what follows."""

    def __init__(
        self,
        supervisor: Supervisor,
        executor: ExecutorClient,
        *,
        signals: Signals | None = None,
        control: BoundSocket | None = None,
        on_stop: Stop = Stop.DRAIN,
        notifier: Notifier | None = None,
        outputs: OutputDirectory | None = None,
        reconfigure: Callable[[], Reloaded] | None = None,
        textfile: Callable[[selectors.BaseSelector], Textfile] | None = None,
        runtime: RuntimeDirectory | None = None,
        onlooker: Callable[[Instant], Instant] | None = None,
        clock: Callable[[], Instant] = instant,
    ) -> None:
        self._supervisor = supervisor
        self._executor = executor
        self._signals = signals
        self._on_stop = on_stop
        self._notifier = notifier
        self._outputs = outputs
        self._reconfigure = reconfigure
        self._onlooker = onlooker
        self._runtime = runtime
        self._told_at = Instant(0.0)
        self._is_init = os.getpid() == children.INIT
        self._reap_at = Instant(0.0)
        self._clock = clock
        supervisor.figures.began_at = clock()
        self._selector = selectors.DefaultSelector()
        self._textfile = textfile and textfile(self._selector)
        self._connection: socket.socket | None = None
        executor.call_before_close(self._unwatch_executor)
        self._workers: Channel | None = None
        self._worker_channel = WorkerChannel()
        self._control: Channel | None = None
        self._names: tuple[BoundSocket, ...] = ()
        """What we have in the runtime directory."""
        self._deadline = Instant(0.0)
        self._again = False
        """Whether something waits to be read, so that the next turn waits for nothing."""
        self._held: list[Event] = []
        """What the executor reported before everything was read that workers had said."""
        self._at = clock()
        if signals is not None:
            self._selector.register(signals.reader, selectors.EVENT_READ, self._heed_signals)
        if control is not None:
            only_us = frozenset({os.geteuid(), 0})
            self._control = channel = Channel(
                control.socket, self._hear_control, selector=self._selector, only_uids=only_us
            )
            control.adopt = lambda now, _: channel.listen_at(now, at=self._at)
            self._names = (control,)

    def run(self) -> None:
        """Turn the loop until there is nothing more to do."""
        while not self.is_over:
            self.step()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do here, or nothing that may be waited for."""
        return not self._held and self._supervisor.is_over(at=self._at)

    @property
    def due(self) -> Instant:
        """When the next turn begins at the latest."""
        return self._at if self._again else self._deadline

    def step(self, *, longest: float = 60.0) -> None:
        """Wait at most so many seconds for something to happen or to be due, and do it."""
        self._watch_executor()
        self._selector.select(max(0.0, min(longest, self.due - self._clock())))
        self._at = at = self._clock()
        events = self._held + self._executor.receive(at=at)
        for listener in self._executor.take_worker_listeners():
            self._adopt_worker_listener(listener)
        # Looked at after the clock was read: all that came before this instant is found, also where
        # a stop in between (SIGSTOP, a freezer, suspend) made the wait return empty-handed. And
        # after the executor was read: what a worker said before its exit has come by now.
        for key, mask in self._selector.select(0):
            if key.data is not None:
                key.data(at, mask)
        behind = self._workers is not None and self._workers.is_behind()
        requests = self._requests(at, hurry=bool(events) or at >= self._deadline)
        grouping = self._requests_due() is not None
        # A worker's word counts before its exit, so exits wait until all words are read.
        self._held, events = (events, []) if behind else ([], events)
        caught_up = not (behind or grouping or self._is_deaf())
        deadlines = [self._supervisor.tick(events, requests, caught_up=caught_up, at=at)]
        self._again = behind and not grouping
        self._supervisor.figures.ticks.observe(self._clock() - at)
        self._executor.flush(at=at)
        # After what may find the connection broken: it is to be made anew at once.
        deadlines.append(self._executor.keep_up(at=at))
        for channel in (self._workers, self._control):
            due = channel.keep_up(at=at) if channel is not None else None
            if due is not None and due <= at:
                self._again = True  # no deadline: what is read now may share a commit
            elif due is not None:
                deadlines.append(due)
        if (due := self._requests_due()) is not None:
            deadlines.append(due)
        deadlines += self._beside(at)
        self._deadline = min(deadlines)

    def _beside(self, at: Instant) -> Iterator[Instant]:
        """Do what is due beside the tasks; yield when to be awake for the next of each."""
        if self._outputs is not None:
            yield self._look_after(self._outputs, at)
        if self._notifier is not None:
            yield self._tell_manager(self._notifier, at)
        if self._textfile is not None:
            if at >= self._textfile.due:
                self._textfile.keep_up(at=at)
            yield self._textfile.due
        if self._runtime is not None:
            yield self._keep_names(self._runtime, at)
        if self._onlooker is not None:
            yield self._onlooker(at)
        if self._is_init:
            if at >= self._reap_at:
                self._reap_at = children.reap_orphans(at)
            yield self._reap_at
        if at >= logs.due():
            logs.keep_up(at)
        yield logs.due()  # last: each line before may have met a reader that stopped

    def _keep_names(self, runtime: RuntimeDirectory, at: Instant) -> Instant:
        """Make again what was removed from the runtime directory; return when to look again."""
        if at >= runtime.due:
            look = runtime.look(self._names, at=at)
            if look.lost is not None:
                log.warning("runtime.lost", reason=look.lost)
            if look.restored is not None:
                log.warning("runtime.restored", names=look.restored)
        return runtime.due

    def take_leave(self, *, for_good: bool, within: float) -> None:
        """Send what the executor has not been sent yet, in so many seconds at most.

        For good: let an embedded one go, since nothing of ours is left with it.
        """
        if for_good:
            self._executor.send(wire.Leave())
        give_up_at = self._clock() + within
        self._executor.flush(at=self._clock())
        while self._executor.wants_to_write and (left := give_up_at - self._clock()) > 0:
            room = select.poll()
            if self._executor.connection is not None:
                room.register(self._executor.connection, select.POLLOUT)
            room.poll(left * 1000)
            self._executor.flush(at=self._clock())

    def close(self) -> None:
        """Close every socket. Workers and executor go on."""
        for channel in (self._workers, self._control):
            if channel is not None:
                channel.close()
        if self._textfile is not None:
            self._textfile.close()
        self._executor.close()
        self._selector.close()

    def _look_after(self, outputs: OutputDirectory, at: Instant) -> Instant:
        """Do a piece of what the output directory needs; return when to be awake for the next."""
        if at >= outputs.due:
            open_runs = self._supervisor.open_runs
            outputs.keep_up(open_runs, busy=bool(open_runs), at=at)
        return outputs.wake_at

    def _tell_manager(self, notifier: Notifier, at: Instant) -> Instant:
        """Tell the service manager how we are, after a turn; return when to tell it again."""
        notifier.alive(at=at)
        if not notifier.is_ready or at - self._told_at >= STATUS_INTERVAL:
            self._told_at = at
            report = self._supervisor.report(at=at)
            notifier.status(report.in_a_line())
            if self._is_current(report):
                notifier.ready()
            if report.stopping:
                notifier.stays(at=at)
        return Instant(at + min(STATUS_INTERVAL, notifier.interval or STATUS_INTERVAL))

    def _is_current(self, report: DaemonReport) -> bool:
        """Return whether the store answered and has what the executor knows (R-60).

        An executor that does not come is not waited for: its unit may start after this one.
        """
        awaited = report.executor is ExecutorState.WAITING and not self._executor.missing
        return report.store_silent_for_s is None and not awaited

    # Sockets ------------------------------------------------------------------------------

    def _watch_executor(self) -> None:
        """Wait on the executor's present connection, and for room in it while something waits."""
        connection = self._executor.connection
        if connection is not None and self._connection is None:
            self._selector.register(connection, selectors.EVENT_READ)
            self._connection = connection
        if connection is not None:
            writing = selectors.EVENT_WRITE if self._executor.wants_to_write else 0
            if self._selector.get_key(connection).events != selectors.EVENT_READ | writing:
                self._selector.modify(connection, selectors.EVENT_READ | writing)

    def _unwatch_executor(self) -> None:
        """Forget a connection before it is closed: the next socket may get its number."""
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection = None

    def _adopt_worker_listener(self, listener: socket.socket) -> None:
        # A run's uid is its executor's, which may be another one than ours.
        runs_or_ours = frozenset({self._executor.uid, os.geteuid(), 0})
        if self._workers is not None and self._workers.serves(runs_or_ours):
            self._workers.listen_at(listener, at=self._at)
            return
        if self._workers is not None:
            self._workers.close()
        self._workers = Channel(
            listener,
            self._worker_channel.hear,
            selector=self._selector,
            only_uids=runs_or_ours,
            refusal=NOT_ALLOWED,
        )

    def _is_deaf(self) -> bool:
        return self._workers is not None and self._workers.deaf

    def _requests(self, at: Instant, *, hurry: bool) -> Sequence[Request]:
        """Return what workers said, if it is time; in any case before what the executor says."""
        due = self._requests_due()
        if due is None or (at < due and not hurry):
            return ()
        return self._worker_channel.take(at=at)

    def _requests_due(self) -> Instant | None:
        return self._worker_channel.due(shortest=self._supervisor.shortest_lease)

    def _heed_signals(self, at: Instant, _: int) -> None:
        """Heed the signals of a turn: those that stop, however many came together, ask it once."""
        assert self._signals is not None
        arrived = self._signals.arrived()
        for signum in arrived:
            log.info("daemon.signalled", signal=signum.name)
        if signal.SIGHUP in arrived:
            with suppress(ConfigError):  # it is told, and the old configuration holds
                self._reload()
        if not frozenset(STOP_SIGNALS).isdisjoint(arrived):
            if self._notifier is not None:
                self._notifier.stopping()
            self._supervisor.stop(self._on_stop, at=at)

    def _reload(self) -> Reloaded:
        """Read the configuration again, between two ticks. Raises `ConfigError` once it is told."""
        if self._reconfigure is None:
            raise ConfigError("this daemon was given no file to read again; start another one")
        if self._notifier is not None:
            self._notifier.reloading()
        try:
            reloaded = self._reconfigure()
        except ConfigError as error:
            log.error("config.refused", mistakes=str(error).splitlines())  # noqa: TRY400 - no bug
            raise
        self._on_stop = Stop.DRAIN if reloaded.config.on_stop == "drain" else Stop.LEAVE
        if self._textfile is not None:
            self._textfile.configure(reloaded.config)
        log.info("config.reloaded", **_told(reloaded))
        return reloaded

    def _hear_control(self, line: bytes, reply: Reply, _pid: int) -> bool:
        try:
            request = msgspec.json.decode(line, type=channels.ControlRequest)
        except UNREADABLE as error:
            message = in_words(error)
            reply({"ok": False, "error": worker_api.WorkerError.INVALID, "message": message})
            return False
        if request.op == "wake":
            reply({"ok": True})  # whatever arrives turns the loop, and the loop looks
        elif request.op == "status":
            output = None if self._outputs is None else self._outputs.report()
            report = self._supervisor.report(at=self._clock())
            reply(msgspec.structs.replace(report, output=output))
        elif request.op == "reload":
            try:
                reply({"ok": True, **_told(self._reload())})
            except ConfigError as error:
                reply({"ok": False, "error": "config_refused", "message": str(error)})
        else:
            message = f"unknown op {request.op!r}; there are wake, status and reload"
            reply({"ok": False, "error": worker_api.WorkerError.INVALID, "message": message})
        return True


def _told(reloaded: Reloaded) -> dict[str, object]:
    """Return what a reload changed, and what it did not, as JSON values."""
    return {
        "changed": {key: change._asdict() for key, change in reloaded.changed.items()},
        "kept": {key: change._asdict() for key, change in reloaded.kept.items()},
    }
