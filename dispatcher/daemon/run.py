"""The daemon as a process: its locks, signals and logs, and one `Daemon` until it ends."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import structlog

from dispatcher import control
from dispatcher.config.config import Config
from dispatcher.daemon.commands import STOP_SIGNALS
from dispatcher.daemon.daemon import Daemon, Surroundings, executor_client, is_embedded
from dispatcher.daemon.duties import Duty
from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.daemon.executor_connection import connect_to
from dispatcher.daemon.launcher import EmbeddedLauncher
from dispatcher.errors import cannot_use, cannot_write
from dispatcher.events import node_actor
from dispatcher.exit_codes import ExitCode
from dispatcher.host import owner, sockets, user_change
from dispatcher.host.locks import DAEMON_LOCK, lock_file
from dispatcher.host.node import node_id, refuse_copy
from dispatcher.host.notify import Notifier
from dispatcher.host.runtime_directory import BoundSocket, RuntimeDirectory, make
from dispatcher.host.signals import caught
from dispatcher.logs import logs
from dispatcher.store.api import Store
from dispatcher.store.open import lock_database, open_store

log = structlog.get_logger()

#: Seconds that a transaction may wait for the database before the loop goes back to the sockets.
STORE_PATIENCE = 0.02

#: Connections that may wait at the control socket.
CONTROL_BACKLOG = 128

#: Seconds that a slow reader of the log is given for the last lines.
LAST_LINES_WITHIN = 1.0

#: Erases the terminal's current line: ECMA-48, EL.
CLEAR_LINE = "\r\x1b[2K"


def run(config: Config, *, drain: bool, onlooker: Duty | None = None) -> int:
    """Run the daemon until a signal stops it, or with `drain` until nothing is left to run.

    Return the exit code. Raises `AlreadyHeld`, `ConfigError`, `StoreUnavailable` and
    `StoreUnusable`.
    """
    node = node_id(config.state_dir)
    # A bar on this terminal is drawn again below each line that takes its place.
    before_line = CLEAR_LINE if onlooker is not None and sys.stdout.isatty() else ""
    set_up_logs = partial(logs.set_up, node=node, before_line=before_line)
    set_up_logs(config)
    _show_changed_user()
    with ExitStack() as stack:
        stack.callback(logs.close, within=LAST_LINES_WITHIN)
        state_lock = config.state_dir / DAEMON_LOCK
        stack.enter_context(closing(lock_file(state_lock, f"state directory {config.state_dir}")))
        refuse_copy(node, config.state_dir)
        runtime = _hold_runtime_dir(config)
        stack.callback(runtime.release)
        store = stack.enter_context(locked_store(config, node))
        signals = stack.enter_context(caught((*STOP_SIGNALS, signal.SIGHUP)))
        notifier = stack.enter_context(closing(Notifier(os.environ)))
        around = Surroundings(
            signals=signals,
            listen=partial(_listen_for_commands, config),
            runtime=runtime,
            notifier=notifier if notifier.has_manager else None,
            onlooker=onlooker,
            set_up_logs=set_up_logs,
        )
        executor = _executor_client(config, node, store)
        daemon = Daemon(
            config, node=node, store=store, executor=executor, until_idle=drain, around=around
        )
        stack.callback(daemon.close)
        log.info("daemon.started", pid=os.getpid(), slots=config.slots)
        daemon.run()
        logs.report_left_out()
        log.info("daemon.stopped")
    return ExitCode.OK


def _show_changed_user() -> None:
    if (user := owner.became()) is not None:
        user_change.show_in_proc()
        log.info("user.changed", user_id=user.uid, user=user.name, path=str(user.place))


@contextmanager
def locked_store(config: Config, node: str) -> Iterator[Store]:
    """Open the store, upgraded if need be, as the one daemon that works on its database."""
    with closing(lock_database(config.store_url, state_dir=config.state_dir)):
        store = open_store(
            config.store_url,
            schema=config.store_schema,
            state_dir=config.state_dir,
            patience=STORE_PATIENCE,
            upgrade=True,
            made=_report_made,
        )
        store.act_as(node_actor(node))
        with closing(store):
            yield store


def _report_made(name: str, others: tuple[str, ...]) -> None:
    log.info("store.created", store=name, other_schemas=list(others))


def _listen_for_commands(config: Config) -> BoundSocket:
    control_socket = BoundSocket(str(config.control_socket), _listen)
    if (error := control.announce(config)) is not None:
        log.warning("control.unannounced", reason=str(error))
    return control_socket


def _listen(path: str) -> socket.socket:
    try:
        return sockets.listen(path, backlog=CONTROL_BACKLOG)
    except OSError as error:
        problem, remedy = f"cannot listen at {path}", "move away what is there"
        raise cannot_use(problem, error, remedy) from error


def _hold_runtime_dir(config: Config) -> RuntimeDirectory:
    """Make the runtime directory and be the one daemon in it: others would take its sockets."""
    directory = config.runtime_dir
    try:
        make(directory)
    except OSError as error:
        problem = f"cannot make the runtime directory {directory}"
        remedy = "set [node] runtime_dir to one that this user may write"
        raise cannot_write(problem, error, remedy) from error
    owner.refuse_foreign(directory)
    path = directory / "daemon.lock"
    what, holder = f"runtime directory {directory}", f"state directory {config.state_dir}"
    lock = partial(lock_file, path, what, holder=holder)
    return RuntimeDirectory(
        directory, lock(), lock_path=path, lock=lock, state_dir=config.state_dir
    )


def _executor_client(config: Config, node: str, store: Store) -> ExecutorClient:
    launcher = EmbeddedLauncher(
        state_dir=config.state_dir,
        runtime_dir=config.runtime_dir,
        node_id=node,
        log_format="journal" if logs.in_journal() else "json",
    )
    return executor_client(
        config,
        node,
        store,
        connect=partial(connect_to, str(config.executor_socket)),
        launcher=launcher if is_embedded(config) else None,
    )
