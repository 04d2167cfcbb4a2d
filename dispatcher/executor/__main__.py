"""``python -m dispatcher.executor``: the parent of the workers, a process that outlives daemons."""

import argparse
import os
import sys
import traceback
from pathlib import Path

from dispatcher.errors import (
    AlreadyHeld,
    ConfigError,
    HostTrouble,
    StoreUnavailable,
    cannot_use,
)
from dispatcher.executor import bootstrap
from dispatcher.executor.executor import Executor, ExecutorIdentity
from dispatcher.executor.journal import Journal
from dispatcher.executor.log import Log
from dispatcher.executor.notices import Notices
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.outside import Outside
from dispatcher.executor.records import Header
from dispatcher.executor.reports import Reporter
from dispatcher.executor.server import Server
from dispatcher.executor.starting.spawn import Spawner
from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.oom import OomScore
from dispatcher.exit_codes import ExitCode
from dispatcher.host import inheritance, owner, utf8
from dispatcher.host.locks import EXECUTOR_LOCK, FileLock
from dispatcher.host.marks import name_spawner
from dispatcher.host.notify import Notifier
from dispatcher.host.runtime_directory import RuntimeDirectory

#: Seconds that a slow reader of the log is given for the last lines.
LAST_LINES_WITHIN = 1.0


def main() -> int:
    inheritance.repair()
    utf8.ensure_utf8_mode()
    options = _parser().parse_args()
    state_dir, runtime_dir = (
        str(Path(d).absolute()) for d in (options.state_dir, options.runtime_dir)
    )
    bootstrap.close_inherited()
    log = Log(inheritance.STDERR, form=options.log_format, node=options.node_id)
    if options.mistake:
        log("config.mistaken", mistakes=[*map(utf8.as_utf8, options.mistake)])
    if options.became is not None:
        uid = os.geteuid()
        log("user.changed", user_id=uid, user=owner.name_of(uid), path=options.became)
    try:
        return _run(state_dir, runtime_dir, options, log)
    finally:
        log.close(within=LAST_LINES_WITHIN)


def _run(state_dir: str, runtime_dir: str, options: argparse.Namespace, log: Log) -> int:
    try:
        bootstrap.check_host(state_dir, runtime_dir)
        lock = FileLock(bootstrap.lock_directory(state_dir))
        runtime = RuntimeDirectory(
            Path(runtime_dir),
            lock if runtime_dir == state_dir else FileLock(bootstrap.lock_directory(runtime_dir)),
            lock_path=Path(runtime_dir, EXECUTOR_LOCK),
            lock=lambda: FileLock(bootstrap.lock_directory(runtime_dir, patience=0.0)),
            state_dir=Path(state_dir),
        )
        name = bootstrap.hold_node_name(options.node_id, Path(state_dir))
        executor = _executor(state_dir, runtime_dir, options, log, runtime)
    except ConfigError as error:
        log("executor.refused", error=str(error))
        return ExitCode.CONFIG
    except (AlreadyHeld, HostTrouble) as error:
        log("executor.refused", error=str(error))
        return ExitCode.TEMPORARY
    except StoreUnavailable as error:
        log("executor.refused", error=str(error))
        return ExitCode.STORE_UNAVAILABLE
    log("executor.started", pid=os.getpid(), state_dir=state_dir, embedded=options.embedded)
    try:
        nothing_stays = executor.run()
    except Exception:  # noqa: BLE001 - the one place: log it, and let the successor sweep
        log("executor.failed", error=traceback.format_exc())
        return ExitCode.REFUSED
    log.report_repetitions()
    log("executor.left", pid=os.getpid())
    del lock, runtime, name
    return ExitCode.OK if nothing_stays else ExitCode.REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dispatcher.executor", description=__doc__)
    parser.add_argument("--state-dir", required=True, help="journal, lock and log")
    parser.add_argument("--runtime-dir", required=True, help="sockets")
    parser.add_argument("--node-id", required=True, help="reported to the daemon in the hello")
    parser.add_argument(
        "--log-format", choices=("auto", "json", "journal"), default="auto", help="[logs] format"
    )
    parser.add_argument("--became", metavar="PATH", help="root became this file's owner")
    parser.add_argument("--embedded", action="store_true", help="exit when it is idle")
    parser.add_argument("--mistake", action="append", help="a mistake of the configuration to log")
    return parser


def _executor(
    state_dir: str,
    runtime_dir: str,
    options: argparse.Namespace,
    log: Log,
    runtime: RuntimeDirectory,
) -> Executor:
    limits = bootstrap.become_parent()
    identity = ExecutorIdentity(
        node_id=options.node_id,
        state_dir=state_dir,
        boot_id=bootstrap.boot_id(),
        pid_namespace=str(Path("/proc/self/ns/pid").readlink()),
    )
    kernel, outputs = Kernel(), OutputFiles()
    try:
        server = Server(runtime_dir, kernel, log)
        notices = Notices(runtime_dir, kernel, server)
    except OSError as error:
        wrong = f"cannot listen in {runtime_dir}"
        raise cannot_use(wrong, error, bootstrap.remedy_for(runtime_dir)) from error
    notifier = Notifier({} if options.embedded else os.environ)  # embedded, the daemon notifies
    spawner = _spawner(outputs, limits, log)
    journal = _journal(identity, runtime_dir, runtime.device)
    report = Reporter(journal, log, server.send)
    executor = Executor(
        identity,
        Outside(kernel, spawner, outputs, server, notices, report),
        runtime=runtime,
        embedded=options.embedded,
        notifier=notifier if notifier.has_manager else None,
    )
    bootstrap.obey_sigterm(executor.shut_down, kernel)
    return executor


def _spawner(outputs: OutputFiles, limits: tuple[int, int], log: Log) -> Spawner:
    oom_score = OomScore.protected(lambda reason: log("protection.inherited", reason=reason))
    spawner = Spawner(outputs, environ=os.environ, open_files=limits, oom_score=oom_score)
    if spawner.why_unmarked is not None:
        log("mark.unavailable", reason=spawner.why_unmarked)
    else:
        name_spawner()
    return spawner


def _journal(identity: ExecutorIdentity, runtime_dir: str, device: int) -> Journal:
    """Return the journal, kept in the runtime directory if that is on another device."""
    apart = device != os.stat(identity.state_dir).st_dev
    return Journal(
        f"{identity.state_dir}/executor.journal",
        Header(
            boot_id=identity.boot_id,
            pid_namespace=identity.pid_namespace,
            node_id=identity.node_id,
        ),
        kept_at=f"{runtime_dir}/{identity.node_id}.journal" if apart else None,
    )


if __name__ == "__main__":
    sys.exit(main())
