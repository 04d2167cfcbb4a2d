"""The mark: a soft limit by which every process of a run is recognised, whatever it does.

A run's leader starts with a soft `RLIMIT_RTTIME` that encodes the run's uid. The kernel copies it
to every descendant over fork and exec; neither an environment nor a session, an open file or a
living parent is needed. The limit restricts nothing: it allows 146,000 years of real-time CPU.
A process of the same user is read by prlimit(2); where that is refused, as for a set-gid
program, `/proc/PID/limits` is readable by everybody.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from contextlib import suppress

from dispatcher.wire import RunUid

#: Above every limit that anybody sets; the bits below carry the uid.
_FLAG = 1 << 62
_UID_BITS = (1 << 61) - 1

#: What an operator is told where no marks can be set.
CANNOT_MARK = (
    "the executor has a hard limit of RLIMIT_RTTIME: remove LimitRTTIME= from its unit, or the"
    " line `rttime` from limits.conf"
)

_LIMIT_LINE = b"Max realtime timeout"

#: Bytes of /proc/PID/limits: about 1,300.
_MOST_BYTES = 8192


def mark_of(uid: str) -> int:
    """Return the mark of a run; 0 for a uid that is not hexadecimal: its run has none."""
    try:
        return _FLAG | (int(uid, 16) & _UID_BITS)
    except ValueError:
        return 0


def by_mark(uids: Iterable[RunUid]) -> Mapping[int, RunUid]:
    """Return runs by their marks, those without left out."""
    return {mark: uid for uid in uids if (mark := mark_of(uid))}


def mark_in(limit: int) -> int:
    """Return the mark that a soft limit is, 0 if it is an ordinary limit."""
    return limit if limit & ~_UID_BITS == _FLAG else 0


def read_mark(pid: int) -> int | None:
    """Return the mark of a process, alive or a zombie; 0 if it has none, or no longer exists.

    None: the kernel does not show it to this user.
    """
    try:
        return mark_in(resource.prlimit(pid, resource.RLIMIT_RTTIME)[0])
    except ProcessLookupError:
        return 0
    except PermissionError:
        return _read_limits(pid)


def can_mark() -> bool:
    """Say whether this process may set marks: a low hard limit forbids it."""
    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    return hard == resource.RLIM_INFINITY or hard >= _FLAG | _UID_BITS


def _read_limits(pid: int) -> int | None:
    with suppress(OSError):
        descriptor = os.open(f"/proc/{pid}/limits", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for line in os.read(descriptor, _MOST_BYTES).splitlines():
                if line.startswith(_LIMIT_LINE):
                    soft = line[len(_LIMIT_LINE) :].split()[0]
                    return mark_in(int(soft)) if soft.isdigit() else 0
        finally:
            os.close(descriptor)
    return None
