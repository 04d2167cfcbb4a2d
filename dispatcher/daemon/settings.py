"""What the supervisor needs of a configuration and of this host."""

import os
import socket
from pathlib import Path

from dispatcher.config import limits
from dispatcher.config.config import Config
from dispatcher.config.environment_file import Variables
from dispatcher.errors import ConfigError
from dispatcher.executor_api import StartSettings
from dispatcher.named_limits import Rule, of_queue
from dispatcher.schedules import Schedules
from dispatcher.store.schema import is_shared
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.turn import SupervisorSettings
from dispatcher.times import boot_id


def session_of(config: Config) -> NodeSession | None:
    """Return who this daemon is on a shared store. Raises `ConfigError` where /proc hides that."""
    if not is_shared(config.store_url):
        return None
    try:
        boot, namespace = boot_id(), str(Path("/proc/self/ns/pid").readlink())
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    uid, state_dir = os.urandom(16).hex(), str(config.state_dir)
    return NodeSession(uid=uid, boot_id=boot, pid_namespace=namespace, state_dir=state_dir)


def settings(
    config: Config,
    node: str,
    variables: Variables,
    *,
    until_idle: bool,
    session: NodeSession | None = None,
) -> SupervisorSettings:
    """Return what the supervisor needs of the configuration."""
    leases, absence_ms = config.leases, config.absence_limit_ms
    retention_ms, queues = config.output.retention_ms, config.queues.items()
    return SupervisorSettings(
        node_id=node,
        hostname=socket.gethostname(),
        slots=config.slots,
        output_dir=str(config.output_dir),
        listen=config.peers.announced,
        poll=config.daemon.poll_ms / 1000,
        drain_timeout=config.daemon.drain_timeout_ms / 1000,
        until_idle=until_idle,
        kill_grace=leases.kill_grace_ms / 1000,
        reap_interval=leases.reap_interval_ms / 1000,
        absence_limit=None if absence_ms is None else absence_ms / 1000,
        retention=None if retention_ms is None else retention_ms / 1000,
        takeover_margin=leases.takeover_margin_ms / 1000,
        concurrency={
            name: most for name, queue in queues if (most := queue.concurrency) is not None
        },
        limits=_rules(config),
        weights={name: queue.weight for name, queue in queues if queue.weight != 1},
        labels=config.labels,
        schedules=_schedules(config),
        session=session,
        start=_start_settings(config, variables),
    )


def _rules(config: Config) -> dict[str, Rule]:
    """Return the named limits, and those of queues on all nodes."""
    named = {name: one.rule for name, one in config.limits.items()}
    return named | {
        of_queue(name): rule
        for name, queue in config.queues.items()
        if (rule := queue.rule) is not None
    }


def _schedules(config: Config) -> Schedules | None:
    """Return the schedules, if there are any. Raises `ConfigError` if one has a mistake."""
    if not config.schedules:
        return None
    from dispatcher import schedule_tasks  # noqa: PLC0415 - few configurations have schedules

    schedule_tasks.check(config)
    return schedule_tasks.ScheduleTasks(config)


def _start_settings(config: Config, variables: Variables) -> StartSettings:
    return StartSettings(
        worker_socket=str(config.runtime_dir / "worker.sock"),
        exit_grace=config.leases.exit_grace_ms / 1000,
        leftover_grace=config.leases.leftover_grace_ms / 1000,
        output_budget=int(config.output.run_budget),
        umask=limits.umask(config.defaults.umask),
        configuration=config.environment,
        environments=variables.of,
        unusable=variables.unusable,
    )
