"""The daemon: wires the parts together and turns the one loop."""

from __future__ import annotations

import os
import random
import selectors
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import msgspec
import structlog

from dispatcher import channels, control, logs, notify, wire
from dispatcher.channels import Channel, Reply
from dispatcher.config import Config
from dispatcher.errors import ConfigError
from dispatcher.executor_client import ExecutorClient, connect_to
from dispatcher.launcher import EmbeddedLauncher
from dispatcher.locks import Held, hold
from dispatcher.node import node_id
from dispatcher.notify import Notifier
from dispatcher.policy import RetryPolicy
from dispatcher.processes import StartSettings
from dispatcher.reload import Reloaded, reload
from dispatcher.signals import Signals
from dispatcher.store.api import Store
from dispatcher.store.open import (
    lock_database,
    open_store,
    remember_identity,
    remembered_identity,
)
from dispatcher.supervisor import Stop, Supervisor
from dispatcher.times import Instant, instant
from dispatcher.turn import Request, Settings
from dispatcher.worker_channel import WorkerChannel

log = structlog.get_logger()

#: Seconds that a transaction may wait for the database before the loop goes back to the sockets.
STORE_PATIENCE = 0.02

#: Seconds between two looks at what the service manager is told.
STATUS_INTERVAL = 1.0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Daemon:
    """One loop: wait for something, hear it, tick, say what follows."""

    def __init__(
        self,
        supervisor: Supervisor,
        executor: ExecutorClient,
        *,
        signals: Signals | None = None,
        control: socket.socket | None = None,
        on_stop: Stop = Stop.DRAIN,
        notifier: Notifier | None = None,
        reconfigure: Callable[[], Reloaded] | None = None,
        clock: Callable[[], Instant] = instant,
    ) -> None:
        self._supervisor = supervisor
        self._executor = executor
        self._signals = signals
        self._on_stop = on_stop
        self._notifier = notifier
        self._reconfigure = reconfigure
        self._told_at = Instant(0.0)
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._connection: socket.socket | None = None
        self._workers: Channel | None = None
        self._worker_channel = WorkerChannel()
        self._control: Channel | None = None
        self._deadline = Instant(0.0)
        if signals is not None:
            self._selector.register(signals.reader, selectors.EVENT_READ, self._heed_signals)
        if control is not None:
            only_us = frozenset({os.geteuid(), 0})
            self._control = Channel(
                control, self._hear_control, selector=self._selector, only_uids=only_us
            )

    def run(self) -> None:
        """Turn the loop until there is nothing more to do."""
        while not self._supervisor.is_over(at=self._clock()):
            self.step()

    def step(self, *, longest: float = 60.0) -> None:
        """Wait at most so many seconds for something to happen or to be due, and do it."""
        self._watch_executor()
        at = self._clock()
        timeout = max(0.0, min(longest, self._deadline - at))
        for key, mask in self._selector.select(timeout):
            if key.data is not None:
                key.data(self._clock(), mask)
        at = self._clock()
        events = self._executor.receive(at=at)
        self._adopt_worker_listener()
        requests = self._requests(at, hurry=bool(events) or at >= self._deadline)
        deadlines = [self._supervisor.tick(events, requests, at=at)]
        self._executor.flush(at=at)
        # After what may find the connection broken: it is to be made anew at once.
        deadlines.append(self._executor.keep_up(at=at))
        for channel in (self._workers, self._control):
            due = channel.keep_up(at=at) if channel is not None else None
            deadlines += [] if due is None else [due]
        if self._notifier is not None:
            deadlines.append(self._tell_manager(self._notifier, at))
        if (due := self._requests_due()) is not None:
            deadlines.append(due)
        self._deadline = min(deadlines)

    def say_goodbye(self, *, within: float) -> None:
        """Let an embedded executor go once nothing of ours is left with it."""
        self._executor.send(wire.Leave())
        give_up_at = self._clock() + within
        while self._executor.wants_to_write and self._clock() < give_up_at:
            self._watch_executor()
            self._selector.select(0.1)
            self._executor.flush(at=self._clock())

    def close(self) -> None:
        """Close every socket. Workers and executor go on."""
        for channel in (self._workers, self._control):
            if channel is not None:
                channel.close()
        self._executor.close()
        self._selector.close()

    def _tell_manager(self, notifier: Notifier, at: Instant) -> Instant:
        """Tell the service manager how we are, after a turn; return when to tell it again."""
        notifier.alive(at=at)
        if at - self._told_at >= STATUS_INTERVAL:
            self._told_at = at
            status = self._supervisor.status(at=at)
            notifier.status(notify.in_a_line(status))
            if status["store_silent_for_s"] is None:
                notifier.ready()
            if status["stopping"]:
                notifier.stays(at=at)
        return Instant(at + min(STATUS_INTERVAL, notifier.interval or STATUS_INTERVAL))

    # Sockets ------------------------------------------------------------------------------

    def _watch_executor(self) -> None:
        """Wait on the executor's present connection, and for room in it while something waits."""
        connection = self._executor.connection
        if connection is not self._connection:
            # A closed socket has left the epoll set by itself; only the selector's book has it.
            if self._connection is not None:
                self._selector.unregister(self._connection)
            if connection is not None:
                self._selector.register(connection, selectors.EVENT_READ)
            self._connection = connection
        if connection is not None:
            writing = selectors.EVENT_WRITE if self._executor.wants_to_write else 0
            if self._selector.get_key(connection).events != selectors.EVENT_READ | writing:
                self._selector.modify(connection, selectors.EVENT_READ | writing)

    def _adopt_worker_listener(self) -> None:
        listener = self._executor.take_worker_listener()
        if listener is not None:
            if self._workers is not None:
                self._workers.close()
            self._workers = Channel(
                listener, self._worker_channel.hear, selector=self._selector, only_uids=None
            )

    def _requests(self, at: Instant, *, hurry: bool) -> Sequence[Request]:
        """Return what workers said, if it is time; in any case before what the executor says."""
        due = self._requests_due()
        if due is None or (at < due and not hurry):
            return ()
        return self._worker_channel.take(at=at)

    def _requests_due(self) -> Instant | None:
        return self._worker_channel.due(shortest=self._supervisor.shortest_lease)

    def _heed_signals(self, at: Instant, _: int) -> None:
        assert self._signals is not None
        for signum in self._signals.arrived():
            if signum in STOP_SIGNALS:
                log.info("daemon.signalled", signal=signum.name)
                if self._notifier is not None:
                    self._notifier.stopping()
                self._supervisor.stop(self._on_stop, at=at)
            elif signum is signal.SIGHUP:
                log.info("daemon.signalled", signal=signum.name)
                with suppress(ConfigError):  # it is told, and the old configuration holds
                    self._reload()

    def _reload(self) -> Reloaded:
        """Read the configuration again, between two ticks. Raises `ConfigError` once it is told."""
        if self._reconfigure is None:
            raise ConfigError("this daemon was given no file to read again; start another one")
        if self._notifier is not None:
            self._notifier.reloading()
            self._told_at = Instant(0.0)  # so that the turn's end says that we are ready
        try:
            reloaded = self._reconfigure()
        except ConfigError as error:
            log.error("config.refused", mistakes=str(error).splitlines())  # noqa: TRY400 - no bug
            raise
        self._on_stop = Stop.DRAIN if reloaded.config.on_stop == "drain" else Stop.LEAVE
        log.info("config.reloaded", **_told(reloaded))
        return reloaded

    def _hear_control(self, line: bytes, reply: Reply) -> bool:
        try:
            request = msgspec.json.decode(line, type=channels.ControlRequest)
        except msgspec.MsgspecError as error:
            reply({"ok": False, "error": wire.WorkerError.INVALID, "message": str(error)})
            return False
        if request.op == "wake":
            reply({"ok": True})  # whatever arrives turns the loop, and the loop looks
        elif request.op == "status":
            status = self._supervisor.status(at=self._clock())
            reply({"ok": True, "pid": os.getpid(), **status})
        elif request.op == "reload":
            try:
                reply({"ok": True, **_told(self._reload())})
            except ConfigError as error:
                reply({"ok": False, "error": "config_refused", "message": str(error)})
        else:
            message = f"unknown op {request.op!r}; there are wake, status and reload"
            reply({"ok": False, "error": wire.WorkerError.INVALID, "message": message})
        return True


def main(config: Config, *, drain: bool) -> int:
    """Run the daemon until it is told to stop, or with `drain` until nothing is left to run.

    Return the exit code. Raises `AlreadyHeld`, `ConfigError`, `StoreUnavailable` and
    `StoreUnusable`.
    """
    me = node_id(config.state_dir)
    logs.set_up(config, node=me)
    with ExitStack() as stack:
        stack.enter_context(hold(config.state_dir / "lock", f"state directory {config.state_dir}"))
        stack.enter_context(_hold_runtime_dir(config))
        stack.enter_context(lock_database(config.store_url, state_dir=config.state_dir))
        store = open_store(config.store_url, state_dir=config.state_dir, patience=STORE_PATIENCE)
        stack.callback(store.close)
        signals = stack.enter_context(Signals((*STOP_SIGNALS, signal.SIGHUP)))
        embedded = config.executor.mode == "embedded"
        client = _executor_client(config, me, store, embedded=embedded)
        supervisor = Supervisor(
            store, client, settings(config, me, until_idle=drain), rng=random.SystemRandom()
        )
        listener = channels.listen(config.control_socket)
        control.announce(config)
        holds = config

        def reconfigure() -> Reloaded:
            nonlocal holds
            reloaded = reload(holds, os.environ)
            supervisor.reconfigure(settings(reloaded.config, me, until_idle=drain))
            logs.set_up(reloaded.config, node=me)
            holds = reloaded.config
            return reloaded

        on_stop = Stop.DRAIN if config.on_stop == "drain" else Stop.LEAVE
        notifier = stack.enter_context(closing(Notifier(os.environ)))
        daemon = Daemon(
            supervisor,
            client,
            signals=signals,
            control=listener,
            on_stop=on_stop,
            notifier=notifier if notifier.wanted else None,
            reconfigure=reconfigure,
        )
        stack.callback(daemon.close)
        log.info("daemon.started", pid=os.getpid(), slots=config.slots)
        daemon.run()
        if embedded and supervisor.leaves_nothing_behind:
            daemon.say_goodbye(within=1.0)
        log.info("daemon.stopped")
    return wire.ExitCode.OK


def settings(config: Config, me: str, *, until_idle: bool) -> Settings:
    """Return what the supervisor needs of the configuration; makes the output directory."""
    try:
        config.output_dir.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the output directory {config.output_dir}: {error.strerror};"
            " move away what is there, or set [node] state_dir to another directory"
        ) from error
    leases, absence_ms = config.leases, config.executor.absence_limit_ms
    return Settings(
        node_id=me,
        hostname=socket.gethostname(),
        slots=config.slots,
        output_dir=str(config.output_dir),
        poll=config.daemon.poll_ms / 1000,
        drain_timeout=config.daemon.drain_timeout_ms / 1000,
        until_idle=until_idle,
        retry=RetryPolicy.of(config.retry),
        reap_interval=leases.reap_interval_ms / 1000,
        absence_limit=None if absence_ms is None else absence_ms / 1000,
        takeover_margin=leases.takeover_margin_ms / 1000,
        concurrency={
            name: queue.concurrency
            for name, queue in config.queues.items()
            if queue.concurrency is not None
        },
        start=StartSettings(
            worker_socket=str(config.runtime_dir / "worker.sock"),
            kill_grace=leases.kill_grace_ms / 1000,
            exit_grace=leases.exit_grace_ms / 1000,
            leftover_grace=leases.leftover_grace_ms / 1000,
            output_budget=int(config.output.run_budget),
        ),
    )


def _told(reloaded: Reloaded) -> dict[str, object]:
    """Return what a reload changed, and what it did not, as JSON values."""
    return {
        "changed": {key: change._asdict() for key, change in reloaded.changed.items()},
        "kept": {key: change._asdict() for key, change in reloaded.kept.items()},
    }


def _hold_runtime_dir(config: Config) -> Held:
    """Make the runtime directory and be the one daemon in it: others would take its sockets."""
    directory = config.runtime_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the runtime directory {directory}: {error.strerror};"
            " set [node] runtime_dir to one that this user may write"
        ) from error
    what = f"runtime directory {directory}"
    return hold(directory / "daemon.lock", what, holder=f"state directory {config.state_dir}")


def _executor_client(config: Config, me: str, store: Store, *, embedded: bool) -> ExecutorClient:
    launcher = EmbeddedLauncher(
        state_dir=config.state_dir, runtime_dir=config.runtime_dir, node_id=me
    )
    return ExecutorClient(
        partial(connect_to, str(config.executor_socket)),
        node_id=me,
        state_dir=str(config.state_dir),
        launcher=launcher if embedded else None,
        check=partial(_check_store, store, config.state_dir),
    )


def _check_store(
    store: Store, state_dir: Path, hello: wire.Hello, runs: Sequence[wire.Run]
) -> None:
    """Refuse another store while runs of the old one live; else remember the new one."""
    remembered = remembered_identity(state_dir)
    if remembered == store.identity:
        return
    alive = [run.uid for run in runs if run.state is not wire.RunState.GONE]
    if alive:
        raise ConfigError(
            f"the store is {store.identity}, but {len(alive)} runs of the store {remembered}"
            f" still live on this node (executor {hello.pid}); point store.url at that store"
            " until they are done, or end them with a SIGTERM to the executor"
        )
    remember_identity(state_dir, store.identity)
