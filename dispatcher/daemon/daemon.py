"""The parts of a daemon, wired together for one configuration."""

import os
import random
import selectors
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from dispatcher import wire
from dispatcher.config import environment_file
from dispatcher.config.config import Config
from dispatcher.config.environment_file import Variables
from dispatcher.config.reload import Reloaded, reload, with_environments
from dispatcher.daemon import children
from dispatcher.daemon.channel import Channel
from dispatcher.daemon.commands import Commands
from dispatcher.daemon.duties import (
    Duty,
    ManagerReports,
    restore_names,
    watch_bell,
    when_due,
    write_logs,
)
from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.daemon.launcher import Launcher
from dispatcher.daemon.listener import Listener
from dispatcher.daemon.loop import Loop
from dispatcher.daemon.outputs import Bounds, OutputDirectory
from dispatcher.daemon.settings import session_of, settings
from dispatcher.daemon.textfile import Textfile
from dispatcher.daemon.worker_channel import connections
from dispatcher.errors import ConfigError, DispatcherError, cannot_write
from dispatcher.hooks import Hook
from dispatcher.host.notify import Notifier
from dispatcher.host.runtime_directory import BoundSocket, RuntimeDirectory
from dispatcher.host.signals import Signals
from dispatcher.store.api import Store, Transactions
from dispatcher.store.open import remember_identity, remembered_identity
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.supervisor.turn import SupervisorSettings
from dispatcher.times import Instant, instant

log = structlog.get_logger()

#: Seconds for which the last messages to the executor are waited for.
LAST_MESSAGES_WITHIN = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What attaches a daemon to its process and its host."""

    signals: Signals | None = None
    listen: Callable[[], BoundSocket] | None = None
    """Listens for commands: called once the configuration has proved usable."""
    runtime: RuntimeDirectory | None = None
    notifier: Notifier | None = None
    onlooker: Duty | None = None
    """Called in each turn of the loop; returns when it wants the next one."""
    set_up_logs: Callable[[Config], object] = lambda _: None


class Daemon:
    """Supervisor, loop and duties; `reconfigure` changes them between two ticks."""

    def __init__(
        self,
        config: Config,
        *,
        node: str,
        store: Store,
        executor: ExecutorClient,
        until_idle: bool,
        around: Surroundings = Surroundings(),
    ) -> None:
        """Wire the parts. Raises `ConfigError`, `StoreUnavailable` where the disk is full."""
        self._config, self._node, self._until_idle = config, node, until_idle
        self._store = store
        self._executor, self._around = executor, around
        self._variables, self._session = environment_file.read_all(config), session_of(config)
        followed = self._settings(config, self._variables)
        self._outputs = _output_directory(config)
        self._control = None if around.listen is None else around.listen()
        self.supervisor = Supervisor(
            store, executor, followed, rng=random.SystemRandom(), files=self._outputs
        )
        self._selector = selectors.EpollSelector()
        self._textfile = Textfile(self._selector, config=config)
        self._listener = Listener(self._selector, config=config)
        self._commands = self._obeyed(store)
        self._use_hooks(config)
        self.loop = Loop(
            self.supervisor,
            executor,
            selector=self._selector,
            bell=store.bell,
            control=self._control_channel(),
            duties=[watch_bell(store.bell), *self._duties()],
            connections=lambda: connections(self._config.slots),
        )
        self._watch_signals()
        self._report_configuration()

    def run(self) -> None:
        """Turn the loop until nothing is left to do, then `finish`."""
        self.loop.run()
        self.finish()

    def finish(self) -> None:
        """Send the executor the rest; release an embedded one that has nothing of ours left."""
        if is_embedded(self._config) and self.supervisor.leaves_nothing_behind:
            self._executor.send(wire.Leave())
        self.loop.flush(within=LAST_MESSAGES_WITHIN)
        self.supervisor.leave()
        self.supervisor.log_left_behind()

    def close(self) -> None:
        """Close every socket. Workers and executor go on."""
        self.loop.close()
        self._textfile.close()
        self._listener.close()
        self._outputs.close()
        self._selector.close()

    def reconfigure(self) -> Reloaded:
        """Apply the configuration as it is now. Raises `ConfigError`; then nothing has changed."""
        reloaded = reload(self._config, os.environ)
        variables = environment_file.read_all(reloaded.config, self._variables)
        reloaded = with_environments(reloaded, self._variables.of, variables.of)
        followed = self._settings(reloaded.config, variables)
        self.supervisor.reconfigure(followed)
        self._use_hooks(reloaded.config)
        self._outputs.bounds = _bounds(reloaded.config)
        self._around.set_up_logs(reloaded.config)
        self._commands.on_stop = _on_stop(reloaded.config)
        self._textfile.configure(reloaded.config)
        self._listener.configure(reloaded.config)
        gone = self._config.limits.keys() - reloaded.config.limits.keys()
        self._config, self._variables = reloaded.config, variables
        self._report_configuration()
        self._report_gone(gone)
        return reloaded

    def _use_hooks(self, config: Config) -> None:
        if not config.hooks.are_given:
            self._store.use_hooks(None)
            return
        from dispatcher import hook_tasks  # noqa: PLC0415 - few configurations have hooks

        self._store.use_hooks(hook_tasks.hooks_of(config, _report_hook))

    def _settings(self, config: Config, variables: Variables) -> SupervisorSettings:
        return settings(
            config, self._node, variables, until_idle=self._until_idle, session=self._session
        )

    def _report_configuration(self) -> None:
        """Let `status` report the file and the mistakes of profiles; log the mistakes."""
        mistakes = [*self._config.mistakes, *self._variables.unread]
        self._commands.file, self._commands.mistakes = self._config.file, mistakes
        if mistakes:
            log.warning("config.mistaken", mistakes=mistakes)

    def _report_gone(self, limits: Collection[str]) -> None:
        """Log which of the limits that a reload removed are taken by unfinished tasks."""
        if not limits:
            return
        with suppress(DispatcherError), self._store.snapshot():
            if taken := self._store.limits_taken().intersection(limits):
                log.warning("limit.gone", limits=sorted(taken))

    def _obeyed(self, store: Store) -> Commands:
        return Commands(
            self.supervisor,
            on_stop=_on_stop(self._config),
            reconfigure=self.reconfigure,
            output_report=self._outputs.report,
            metrics_unwritten=self._textfile.failure,
            listener_failure=self._listener.failure,
            bell_failure=lambda: store.bell.failure,
            notifier=self._around.notifier,
        )

    def _duties(self) -> list[Duty]:
        around = self._around
        duties: list[Duty] = [self._tend_outputs]
        if around.notifier is not None:
            duties.append(ManagerReports(around.notifier, self.supervisor, self._executor).run_due)
        duties += [self._textfile.run_due, self._listener.run_due]
        if around.runtime is not None:
            names = () if self._control is None else (self._control,)
            duties.append(restore_names(around.runtime, names))
        if around.onlooker is not None:
            duties.append(around.onlooker)
        if os.getpid() == children.INIT:
            duties.append(when_due(children.reap_orphans))
        duties.append(write_logs)  # last: each line before may have met a reader that stopped
        return duties

    def _tend_outputs(self, at: Instant) -> Instant:
        return self._outputs.run_due(lambda: self.supervisor.open_runs, at=at)

    def _watch_signals(self) -> None:
        if (signals := self._around.signals) is not None:
            self._selector.register(
                signals.reader,
                selectors.EVENT_READ,
                lambda at, _: self._commands.obey_signals(signals.arrived(), at=at),
            )

    def _control_channel(self) -> Channel | None:
        if self._control is None:
            return None
        channel = Channel(
            self._control.socket,
            self._commands.handle_request,
            selector=self._selector,
            only_uids=frozenset({os.geteuid(), 0}),
        )
        self._control.adopt = lambda now, _: channel.listen_at(now, at=instant())
        return channel


def executor_client(
    config: Config,
    node: str,
    store: Store,
    *,
    connect: Callable[[], socket.socket],
    launcher: Launcher | None,
) -> ExecutorClient:
    """Return the client of this node's executor, which refuses one with runs of another store."""
    return ExecutorClient(
        connect,
        node_id=node,
        state_dir=str(config.state_dir),
        launcher=launcher,
        check=partial(_check_store, store, config.state_dir),
    )


def _report_hook(hook: Hook, profile: str, task_id: int | None, error: str) -> None:
    log.error("hook.refused", hook=hook.value, profile=profile, task_id=task_id, error=error)


def is_embedded(config: Config) -> bool:
    """Whether the daemon starts its executor itself."""
    return config.executor.mode == "embedded"


def _bounds(config: Config) -> Bounds:
    output = config.output
    return Bounds(int(output.total_budget), int(output.free_floor))


def _on_stop(config: Config) -> Stop:
    return Stop.DRAIN if config.on_stop == "drain" else Stop.LEAVE


def _output_directory(config: Config) -> OutputDirectory:
    """Return the output directory, made if it is missing."""
    try:
        config.output_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot make the output directory {config.output_dir}"
        remedy = "move away what is there, or set [node] state_dir to another directory"
        raise cannot_write(problem, error, remedy) from error
    return OutputDirectory(str(config.output_dir), _bounds(config))


def _check_store(
    store: Transactions, state_dir: Path, hello: wire.Hello, runs: Sequence[wire.RunReport]
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
