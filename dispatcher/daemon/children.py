"""The daemon's own children and, as the init of a container, orphans without another reaper."""

import os
import subprocess
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dispatcher.times import Instant

#: The pid of the process that inherits every orphan of its pid namespace.
INIT: Final = 1

#: Seconds between two looks for dead orphans.
INTERVAL: Final = 1.0

_ours: Final[weakref.WeakSet[subprocess.Popen[bytes]]] = weakref.WeakSet()


def start(command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """Start a process that its caller reaps. Raises OSError."""
    child = subprocess.Popen(command, **how)  # noqa: S603 - our own interpreter and paths
    _ours.add(child)
    return child


def reap_orphans(at: Instant) -> Instant:
    """Reap dead children that `start` did not start; return when to look again."""
    ours = {child.pid for child in _ours}
    listed = Path("/proc/self/task", str(os.getpid()), "children").read_text("ascii")
    for pid in map(int, listed.split()):
        if pid not in ours:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    return Instant(at + INTERVAL)
