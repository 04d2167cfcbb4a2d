"""The daemon: wires the parts together, for one configuration."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import structlog

from dispatcher import control, exit_codes, wire
from dispatcher.config import environment_file
from dispatcher.config.config import Config
from dispatcher.config.reload import Reloaded, reload, with_environments
from dispatcher.daemon.executor_client import ExecutorClient, connect_to
from dispatcher.daemon.launcher import EmbeddedLauncher
from dispatcher.daemon.loop import STOP_SIGNALS, Loop
from dispatcher.daemon.outputs import Bounds, OutputDirectory
from dispatcher.daemon.textfile import Textfile
from dispatcher.errors import ConfigError, cannot_use, cannot_write
from dispatcher.executor_api import StartSettings
from dispatcher.host import owner, sockets
from dispatcher.host.locks import DAEMON_LOCK, hold
from dispatcher.host.node import node_id, refuse_copy
from dispatcher.host.notify import Notifier
from dispatcher.host.runtime_directory import BoundSocket, RuntimeDirectory, make
from dispatcher.host.signals import Signals
from dispatcher.logs import logs
from dispatcher.store.api import Store
from dispatcher.store.open import (
    lock_database,
    open_store,
    remember_identity,
    remembered_identity,
)
from dispatcher.supervisor.supervisor import Stop, Supervisor
from dispatcher.supervisor.turn import SupervisorSettings
from dispatcher.times import Instant

log = structlog.get_logger()

#: Seconds that a transaction may wait for the database before the loop goes back to the sockets.
STORE_PATIENCE = 0.02

#: Connections that may wait at the control socket.
CONTROL_BACKLOG = 128

#: Seconds that a slow reader of the log is given for the last lines.
LAST_LINES_WITHIN = 1.0

#: What removes the line of a terminal that the cursor is in: ECMA-48, EL.
CLEAR_LINE = "\r\x1b[2K"


def main(
    config: Config, *, drain: bool, onlooker: Callable[[Instant], Instant] | None = None
) -> int:
    """Run the daemon until it is told to stop, or with `drain` until nothing is left to run.

    An `onlooker` is called in each turn of the loop, and returns when it wants the next one.

    Return the exit code. Raises `AlreadyHeld`, `ConfigError`, `StoreUnavailable` and
    `StoreUnusable`.
    """
    me = node_id(config.state_dir)
    # What draws a bar on this terminal redraws it below each line that takes its place.
    before_line = CLEAR_LINE if onlooker is not None and sys.stdout.isatty() else ""
    set_up_logs = partial(logs.set_up, node=me, before_line=before_line)
    set_up_logs(config)
    if (user := owner.became()) is not None:
        owner.show_in_proc()
        log.info("user.changed", user_id=user.uid, user=user.name, path=str(user.place))
    with ExitStack() as stack:
        stack.callback(logs.close, within=LAST_LINES_WITHIN)
        stack.enter_context(
            hold(config.state_dir / DAEMON_LOCK, f"state directory {config.state_dir}")
        )
        refuse_copy(me, config.state_dir)
        runtime = _hold_runtime_dir(config)
        stack.callback(runtime.release)
        stack.enter_context(lock_database(config.store_url, state_dir=config.state_dir))
        store = open_store(
            config.store_url, state_dir=config.state_dir, patience=STORE_PATIENCE, upgrade=True
        )
        stack.callback(store.close)
        signals = stack.enter_context(Signals((*STOP_SIGNALS, signal.SIGHUP)))
        embedded = config.executor.mode == "embedded"
        client = _executor_client(config, me, store, embedded=embedded)
        _make_output_dir(config)
        holds, goes_by = config, settings(config, me, until_idle=drain)
        outputs = OutputDirectory(goes_by.output_dir, _bounds(config))
        supervisor = Supervisor(store, client, goes_by, rng=random.SystemRandom(), files=outputs)
        control_socket = BoundSocket(str(config.control_socket), _listen)
        if (unsaid := control.announce(config)) is not None:
            log.warning("control.unannounced", reason=str(unsaid))

        def reconfigure() -> Reloaded:
            nonlocal holds, goes_by
            reloaded = reload(holds, os.environ)
            follows = settings(reloaded.config, me, until_idle=drain)
            environments = goes_by.start.environments, follows.start.environments
            reloaded = with_environments(reloaded, *environments)
            supervisor.reconfigure(follows)
            outputs.bounds = _bounds(reloaded.config)
            set_up_logs(reloaded.config)
            holds, goes_by = reloaded.config, follows
            return reloaded

        on_stop = Stop.DRAIN if config.on_stop == "drain" else Stop.LEAVE
        notifier = stack.enter_context(closing(Notifier(os.environ)))
        loop = Loop(
            supervisor,
            client,
            signals=signals,
            control=control_socket,
            runtime=runtime,
            on_stop=on_stop,
            notifier=notifier if notifier.wanted else None,
            outputs=outputs,
            reconfigure=reconfigure,
            textfile=partial(Textfile, config=config),
            onlooker=onlooker,
        )
        stack.callback(loop.close)
        log.info("daemon.started", pid=os.getpid(), slots=config.slots)
        loop.run()
        loop.take_leave(for_good=embedded and supervisor.leaves_nothing_behind, within=1.0)
        supervisor.log_left_behind()
        logs.last_words()
        log.info("daemon.stopped")
    return exit_codes.ExitCode.OK


def settings(config: Config, me: str, *, until_idle: bool) -> SupervisorSettings:
    """Return what the supervisor needs of the configuration."""
    leases, absence_ms = config.leases, config.executor.absence_limit_ms
    retention_ms = config.output.retention_ms
    return SupervisorSettings(
        node_id=me,
        hostname=socket.gethostname(),
        slots=config.slots,
        output_dir=str(config.output_dir),
        poll=config.daemon.poll_ms / 1000,
        drain_timeout=config.daemon.drain_timeout_ms / 1000,
        until_idle=until_idle,
        retry=config.retry.policy(),
        reap_interval=leases.reap_interval_ms / 1000,
        absence_limit=None if absence_ms is None else absence_ms / 1000,
        retention=None if retention_ms is None else retention_ms / 1000,
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
            configuration=config.environment,
            environments=environment_file.read_all(config),
        ),
    )


def _bounds(config: Config) -> Bounds:
    output = config.output
    return Bounds(int(output.total_budget), int(output.free_floor))


def _make_output_dir(config: Config) -> None:
    try:
        config.output_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        told = f"cannot make the output directory {config.output_dir}"
        remedy = "move away what is there, or set [node] state_dir to another directory"
        raise cannot_write(told, error, remedy) from error


def _listen(path: str) -> socket.socket:
    try:
        return sockets.listen(path, backlog=CONTROL_BACKLOG)
    except OSError as error:
        told, remedy = f"cannot listen at {path}", "move away what is there"
        raise cannot_use(told, error, remedy) from error


def _hold_runtime_dir(config: Config) -> RuntimeDirectory:
    """Make the runtime directory and be the one daemon in it: others would take its sockets."""
    directory = config.runtime_dir
    try:
        make(directory)
    except OSError as error:
        told = f"cannot make the runtime directory {directory}"
        remedy = "set [node] runtime_dir to one that this user may write"
        raise cannot_write(told, error, remedy) from error
    path = directory / "daemon.lock"
    what, holder = f"runtime directory {directory}", f"state directory {config.state_dir}"
    lock = partial(hold, path, what, holder=holder)
    return RuntimeDirectory(
        directory, lock(), lock_path=path, lock=lock, state_dir=config.state_dir
    )


def _executor_client(config: Config, me: str, store: Store, *, embedded: bool) -> ExecutorClient:
    launcher = EmbeddedLauncher(
        state_dir=config.state_dir,
        runtime_dir=config.runtime_dir,
        node_id=me,
        log_format="journal" if logs.in_journal() else "json",
    )
    return ExecutorClient(
        partial(connect_to, str(config.executor_socket)),
        node_id=me,
        state_dir=str(config.state_dir),
        launcher=launcher if embedded else None,
        check=partial(_check_store, store, config.state_dir),
    )


def _check_store(
    store: Store, state_dir: Path, hello: wire.Hello, runs: Sequence[wire.RunReport]
) -> None:
    """Refuse another store while runs of the old one live; else remember the new one."""
    remembered = remembered_identity(state_dir)
    if remembered == store.identity:
        return
    alive = [run.uid for run in runs if run.state is not wire.RunState.GONE]
    if alive:
        raise ConfigError(
            f"the store is {store.identity}, but runs of the store {remembered} still live on this"
            f" node ({len(alive)}, executor pid {hello.pid}); point store.url at that store"
            " until they are done, or end them with a SIGTERM to the executor"
        )
    remember_identity(state_dir, store.identity)
