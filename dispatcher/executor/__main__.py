"""``python -m dispatcher.executor``: the parent of the workers, a process that outlives daemons."""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import resource
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType

from dispatcher import times, wire
from dispatcher.errors import (
    AlreadyHeld,
    ConfigError,
    HostTrouble,
    StoreUnavailable,
    cannot_use,
    cannot_write,
)
from dispatcher.executor.executor import Executor, ExecutorIdentity
from dispatcher.executor.journal import Header, Journal
from dispatcher.executor.log import Log
from dispatcher.executor.notices import Notices
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.server import Server, too_long
from dispatcher.executor.starting.spawn import Spawner
from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.oom import OomScore
from dispatcher.exit_codes import ExitCode
from dispatcher.host import inheritance, owner, utf8
from dispatcher.host.locks import EXECUTOR_LOCK, LOCK_FLAGS, Held
from dispatcher.host.marks import call_spawner
from dispatcher.host.node import hold_name
from dispatcher.host.notify import Notifier
from dispatcher.host.runtime_directory import RuntimeDirectory, make

#: Seconds for which a dead executor's lock may stay: a child of it in the middle of its exec, when
#: spawning it has long returned, still holds what it will have closed in the end.
LOCK_PATIENCE = 2.0

#: Seconds that a slow reader of the log is given for the last lines.
LAST_LINES_WITHIN = 1.0

_PR_SET_CHILD_SUBREAPER = 36

_WRITABLE = "this user must be able to write there"


def main() -> int:
    """Run the executor; return its exit code."""
    inheritance.put_in_order()
    utf8.insist()
    options = _parser().parse_args()
    state_dir, runtime_dir = (
        str(Path(d).absolute()) for d in (options.state_dir, options.runtime_dir)
    )
    _close_inherited()
    log = Log(inheritance.STDERR, form=options.log_format, node=options.node_id)
    if options.mistake:
        log("config.mistaken", mistakes=[*map(wire.as_utf8, options.mistake)])
    if options.became is not None:
        uid = os.geteuid()
        log("user.changed", user_id=uid, user=owner.name_of(uid), path=options.became)
    try:
        return _run(state_dir, runtime_dir, options, log)
    finally:
        log.close(within=LAST_LINES_WITHIN)


def _run(state_dir: str, runtime_dir: str, options: argparse.Namespace, log: Log) -> int:
    try:
        _check(state_dir, runtime_dir)
        lock = Held(_lock(state_dir))
        runtime = RuntimeDirectory(
            Path(runtime_dir),
            lock if runtime_dir == state_dir else Held(_lock(runtime_dir)),
            lock_path=Path(runtime_dir, EXECUTOR_LOCK),
            lock=lambda: Held(_lock(runtime_dir, patience=0.0)),
            state_dir=Path(state_dir),
        )
        name = _hold_name(options.node_id, Path(state_dir))
        executor = _compose(state_dir, runtime_dir, options, log, runtime)
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
    except Exception:  # noqa: BLE001 - the one place: say it, and let the successor sweep
        log("executor.failed", error=traceback.format_exc())
        return ExitCode.REFUSED
    log.last_words()
    log("executor.left", pid=os.getpid())
    del lock, runtime, name
    return ExitCode.OK if nothing_stays else ExitCode.REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dispatcher.executor", description=__doc__)
    parser.add_argument("--state-dir", required=True, help="journal, lock and log")
    parser.add_argument("--runtime-dir", required=True, help="sockets")
    parser.add_argument("--node-id", required=True, help="told to the daemon in the hello")
    parser.add_argument(
        "--log-format", choices=("auto", "json", "journal"), default="auto", help="[logs] format"
    )
    parser.add_argument("--became", metavar="PATH", help="root became this file's owner")
    parser.add_argument("--embedded", action="store_true", help="leave when nobody needs it")
    parser.add_argument("--mistake", action="append", help="of the configuration, to be logged")
    return parser


def _close_inherited() -> None:
    """Hold nothing that is not ours: whoever waits for a pipe's end would wait for our end."""
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if descriptor > inheritance.STDERR:
            with suppress(OSError):  # the listing's own
                os.close(descriptor)


def _check(state_dir: str, runtime_dir: str) -> None:
    if error := too_long(f"{runtime_dir}/notify/{'0' * 32}"):  # the longest: of a run's uid
        raise ConfigError(error)
    if not state_dir.isprintable():
        raise ConfigError(f"the daemon could not be told this state directory: {state_dir!r}")
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise ConfigError(
            "this kernel does not list a process's children: CONFIG_PROC_CHILDREN is needed"
        )


def _lock(directory: str, *, patience: float = LOCK_PATIENCE) -> int:
    """Return the descriptor that keeps every other executor out of `directory`."""
    path = f"{directory}/{EXECUTOR_LOCK}"
    try:
        make(Path(directory))
    except OSError as error:
        raise cannot_write(f"cannot make {directory}", error, _WRITABLE) from error
    try:
        descriptor = os.open(path, LOCK_FLAGS, 0o600)
    except OSError as error:
        raise cannot_use(f"cannot use {path}", error, _remedy(path)) from error
    give_up_at = times.instant() + patience
    while not _try_lock(descriptor):
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        if Path("/proc", holder).exists() or times.instant() > give_up_at:
            os.close(descriptor)
            raise AlreadyHeld(
                f"another executor, pid {holder}, holds {path};"
                " one is enough, and stopping it ends its runs"
            )
        time.sleep(0.01)
    with suppress(OSError):  # the lock holds also where a full disk forgets the name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
    return descriptor


def _hold_name(node: str, state_dir: Path) -> socket.socket | None:
    """Return what keeps copies of this node off this host: they would sweep our runs.

    None: somebody else has taken the name and keeps nobody out by it. The locks hold all the same.
    """
    give_up_at = times.instant() + LOCK_PATIENCE
    while (held := hold_name(node, state_dir)) is None and times.instant() <= give_up_at:
        time.sleep(0.01)
    return held


def _remedy(path: str) -> str:
    return owner.of_another(Path(path)) or "this user must be able to write there"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _compose(
    state_dir: str,
    runtime_dir: str,
    options: argparse.Namespace,
    log: Log,
    runtime: RuntimeDirectory,
) -> Executor:
    limits = _settle_down()
    node = ExecutorIdentity(
        node_id=options.node_id,
        state_dir=state_dir,
        boot_id=_boot_id(),
        pid_namespace=str(Path("/proc/self/ns/pid").readlink()),
    )
    kernel, outputs = Kernel(), OutputFiles()
    try:
        server = Server(runtime_dir, kernel, log)
        notices = Notices(runtime_dir, kernel, server)
    except OSError as error:
        told = f"cannot listen in {runtime_dir}"
        raise cannot_use(told, error, _remedy(runtime_dir)) from error
    notifier = Notifier({} if options.embedded else os.environ)  # embedded, the daemon speaks
    oom_score = OomScore.protected(lambda reason: log("protection.inherited", reason=reason))
    spawner = Spawner(outputs, environ=os.environ, open_files=limits, oom_score=oom_score)
    if spawner.why_unmarked is not None:
        log("mark.unavailable", reason=spawner.why_unmarked)
    else:
        call_spawner()
    executor = Executor(
        node,
        kernel=kernel,
        spawner=spawner,
        outputs=outputs,
        journal=Journal(
            f"{state_dir}/executor.journal",
            Header(boot_id=node.boot_id, pid_namespace=node.pid_namespace, node_id=node.node_id),
            kept_at=_journal_apart(node, runtime_dir, runtime.device),
        ),
        server=server,
        notices=notices,
        runtime=runtime,
        log=log,
        embedded=options.embedded,
        notifier=notifier if notifier.wanted else None,
    )
    _obey_sigterm(executor, kernel)
    return executor


def _journal_apart(node: ExecutorIdentity, runtime_dir: str, device: int) -> str | None:
    """Return where to keep the journal, away from the state directory's disk; None: nowhere."""
    if device == os.stat(node.state_dir).st_dev:
        return None
    return f"{runtime_dir}/{node.node_id}.journal"


def _boot_id() -> str:
    try:
        return times.boot_id()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error


def _settle_down() -> tuple[int, int]:
    """Become what a parent of workers must be; return the limits that it had and they get."""
    os.chdir("/")
    os.umask(0o077)
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise ConfigError("it cannot become the parent of orphans (PR_SET_CHILD_SUBREAPER)")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # of a lease that somebody breaks
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would cost all exit codes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def _obey_sigterm(executor: Executor, kernel: Kernel) -> None:
    def on_sigterm(_signum: int, _frame: FrameType | None) -> None:
        executor.shut_down()

    # A handler alone would not end a wait: Python goes on with it (PEP 475).
    wakes, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    kernel.watch_edge(wakes)
    signal.signal(signal.SIGTERM, on_sigterm)


if __name__ == "__main__":
    sys.exit(main())
