"""A process in the background: a session of its own, and its output in a bounded file."""

import fcntl
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

#: Bytes of a log, after which it becomes the one before: the two together are the bound.
MOST_LOG = 32 << 20

#: No link to another file, and no FIFO without a reader, which would block.
_LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: Variables of the service manager for the process that forks alone.
_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


class Child(NamedTuple):
    """A process in the background, as its parent knows it."""

    pid: int
    log_began: int
    """Size of its log when it started."""


def fork(log: Path) -> Child | None:
    """Fork a process whose output is appended to a log; return it, None in the process itself.

    It has no terminal, and its working directory is /. Raises OSError for an unusable log.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    output = _opened(log)
    try:
        began = os.fstat(output).st_size
        if (pid := os.fork()) > 0:
            return Child(pid, began)
        os.setsid()
        os.chdir("/")
        for name in _NOT_INHERITED:
            os.environ.pop(name, None)
        nothing = _apart(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        os.dup2(nothing, 0)
        os.close(nothing)
        for descriptor in outputs():
            os.dup2(output, descriptor)
    finally:
        os.close(output)
    return None


def outputs() -> set[int]:
    """Return the descriptors of stdout and stderr, also where Python has others for them."""
    return {1, 2, sys.stdout.fileno(), sys.stderr.fileno()}


def bound_log(log: Path, descriptors: Iterable[int]) -> None:
    """Go on in a new log if this one, to which the descriptors lead, is full; keep one before.

    Raises OSError if that fails; the descriptors then lead where they did.
    """
    descriptors = sorted(descriptors)
    if os.fstat(descriptors[0]).st_size < MOST_LOG:
        return
    log.rename(log.with_name(f"{log.name}.1"))
    output = _opened(log)
    for descriptor in descriptors:
        os.dup2(output, descriptor)
    os.close(output)


def _opened(log: Path) -> int:
    return _apart(os.open(log, _LOG_FLAGS, 0o600))


def _apart(descriptor: int) -> int:
    """Return a descriptor in place of one that has a standard stream's number, which was closed."""
    if descriptor > 2:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved
