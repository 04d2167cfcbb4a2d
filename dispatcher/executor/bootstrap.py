"""What makes this process a fit parent of workers: locks, limits, signals."""

import ctypes
import fcntl
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from dispatcher import times
from dispatcher.errors import AlreadyHeld, ConfigError, cannot_use, cannot_write
from dispatcher.executor.server import too_long
from dispatcher.executor.system.kernel import Kernel
from dispatcher.host import inheritance, owner
from dispatcher.host.locks import EXECUTOR_LOCK, LOCK_FLAGS
from dispatcher.host.node import hold_name
from dispatcher.host.runtime_directory import make

#: Seconds for which a dead executor's lock may stay: a child of it in the middle of its exec, when
#: spawning it has long returned, still holds the descriptors that the exec closes.
LOCK_PATIENCE = 2.0

_PR_SET_CHILD_SUBREAPER = 36

_WRITABLE = "this user must be able to write there"


def close_inherited() -> None:
    """Close all descriptors but the standard ones: the reader of an inherited pipe waits for us."""
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if descriptor > inheritance.STDERR:
            with suppress(OSError):  # the listing's own
                os.close(descriptor)


def check_host(state_dir: str, runtime_dir: str) -> None:
    """Raise ConfigError if no executor can run here."""
    if error := too_long(f"{runtime_dir}/notify/{'0' * 32}"):  # the longest: of a run's uid
        raise ConfigError(error)
    if not state_dir.isprintable():
        raise ConfigError(f"the protocol cannot express this state directory: {state_dir!r}")
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise ConfigError(
            "this kernel does not list a process's children: CONFIG_PROC_CHILDREN is needed"
        )


def lock_directory(directory: str, *, patience: float = LOCK_PATIENCE) -> int:
    """Return the descriptor that keeps every other executor out of `directory`."""
    path = f"{directory}/{EXECUTOR_LOCK}"
    try:
        make(Path(directory))
    except OSError as error:
        raise cannot_write(f"cannot make {directory}", error, _WRITABLE) from error
    owner.refuse_foreign(Path(directory))
    try:
        descriptor = os.open(path, LOCK_FLAGS, 0o600)
    except OSError as error:
        raise cannot_use(f"cannot use {path}", error, remedy_for(path)) from error
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


def hold_node_name(node: str, state_dir: Path) -> socket.socket | None:
    """Return the socket that keeps copies of this node off this host: they would sweep our runs.

    None: another program has the name. The locks hold all the same.
    """
    give_up_at = times.instant() + LOCK_PATIENCE
    while (held := hold_name(node, state_dir)) is None and times.instant() <= give_up_at:
        time.sleep(0.01)
    return held


def remedy_for(path: str) -> str:
    """Return how to make a path usable."""
    return owner.remedy_if_foreign(Path(path)) or _WRITABLE


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def boot_id() -> str:
    """Return the id of this boot. Raises ConfigError where /proc does not show it."""
    try:
        return times.boot_id()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error


def become_parent() -> tuple[int, int]:
    """Become a fit parent of workers; return the limits of open files that they get."""
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


def obey_sigterm(shut_down: Callable[[], None], kernel: Kernel) -> None:
    """Let SIGTERM end all runs, and wake the loop."""

    def on_sigterm(_signum: int, _frame: FrameType | None) -> None:
        shut_down()

    # A handler alone would not end a wait: Python goes on with it (PEP 475).
    wakes, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    kernel.watch_edge(wakes)
    signal.signal(signal.SIGTERM, on_sigterm)
