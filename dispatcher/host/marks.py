"""The mark: a soft limit that identifies every process of a run.

A run's leader starts with a soft `RLIMIT_RTTIME` that encodes the run's uid. The kernel copies it
to every descendant across fork and exec, whatever they do to environment, session, open files or
parents. The limit restricts nothing: it allows 146,000 years of real-time CPU. prlimit(2) reads it
from processes of the same user; for others, such as a set-gid program, `/proc/PID/limits` is
readable by everybody.
"""

import os
import resource
import select
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dispatcher.host.hidden import HiddenPids, proc_hides
from dispatcher.wire import RunUid

#: Above every ordinary limit; the bits below carry the uid.
_FLAG = 1 << 62
_UID_BITS = (1 << 61) - 1

#: The message for an executor that cannot set marks.
CANNOT_MARK = (
    "the executor has a hard limit of RLIMIT_RTTIME: remove LimitRTTIME= from its unit, or the"
    " line `rttime` from limits.conf"
)

#: The process name of an executor that sets marks, followed by its own pid. While it spawns it
#: carries the mark of that run; a child before its exec carries the name with another pid.
_SPAWNER = "executor"

_LIMIT_LINE = b"Max realtime timeout"

#: Lists of processes that `read_marks` takes at most, until every process of one could be read.
MOST_LISTS = 20

#: Processes of a run that a message lists at most; there may be thousands.
MOST_LISTED = 10

#: Bytes of /proc/PID/limits: about 1,300.
_MOST_BYTES = 8192


def mark_of(uid: str) -> int:
    """Return the mark of a run; 0 for a uid that is not hexadecimal."""
    try:
        return _FLAG | (int(uid, 16) & _UID_BITS)
    except ValueError:
        return 0


def by_mark(uids: Iterable[RunUid]) -> Mapping[int, RunUid]:
    """Return runs by their marks, without those that have none."""
    return {mark: uid for uid in uids if (mark := mark_of(uid))}


def mark_in(limit: int) -> int:
    """Return the mark in a soft limit, 0 for an ordinary limit."""
    return limit if limit & ~_UID_BITS == _FLAG else 0


def read_mark(pid: int) -> int | None:
    """Return the mark of a process or zombie; 0 if it has none, None if it is hidden.

    Raises ProcessLookupError for a pid that is not in use.
    """
    try:
        return mark_in(resource.prlimit(pid, resource.RLIMIT_RTTIME)[0])
    except PermissionError:
        return _read_limits(pid)


def read_marks(
    hidden: HiddenPids, found: Callable[[int, int], object] | None = None
) -> tuple[dict[int, int], bool]:
    """Return the marks of all processes by pid, and whether the result is complete.

    `found` is called with each pid and its mark immediately: the process may soon be gone. Pass
    the same `hidden` to every call.

    A process that forks and exits again and again always has a new pid, but is always listed: a
    list of which every process could still be read is complete.
    """
    read: dict[int, int | None] = {}
    hides = proc_hides()
    for _ in range(MOST_LISTS):
        gone, whole = False, True
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
        if hides:
            unlisted, whole = hidden.look()
            pids |= unlisted
        for pid in sorted(
            pids - read.keys(), reverse=True
        ):  # the youngest is the likeliest to live
            try:
                mark = read[pid] = read_mark(pid)
            except ProcessLookupError:
                gone = True
            else:
                if mark and found is not None:
                    found(pid, mark)
        if whole and not gone:
            break
    return {pid: mark for pid, mark in read.items() if mark}, whole and not gone


def is_alive(pid: int) -> bool:
    """Return whether a process has not exited, also if /proc hides it. A zombie has exited."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        exited = select.poll()
        exited.register(handle, select.POLLIN)
        return not exited.poll(0)
    finally:
        os.close(handle)


def listed(processes: Sequence[str], most: int = MOST_LISTED) -> str:
    """Return the first of these processes in words, and the number of the others."""
    others = len(processes) - most
    return ", ".join(processes[:most]) + (f" and {others} more" if others > 0 else "")


class MarkedProcesses:
    """The processes on this host that carry the marks of runs."""

    def __init__(self, uids: Iterable[RunUid], hidden: HiddenPids | None = None) -> None:
        """Pass the same `hidden` for several looks in a row."""
        self.living: defaultdict[RunUid, list[str]] = defaultdict(list)
        """As "name (pid)"."""
        self.dead: defaultdict[RunUid, set[int]] = defaultdict(set)
        """Zombies and processes that have just died: they may have left children."""
        self.whole = True
        """Whether the look is complete."""
        wanted = by_mark(uids)
        read: Mapping[int, int] = {}
        if wanted:
            read, self.whole = read_marks(hidden or HiddenPids())
        for pid, mark in read.items():
            if (uid := wanted.get(mark)) is None:
                continue
            if (name := _name_of(pid)) == f"{_SPAWNER}{pid} ({pid})":
                continue
            if name is not None:
                self.living[uid].append(name)
            else:
                self.dead[uid].add(pid)


def _name_of(pid: int) -> str | None:
    """Return a process as "name (pid)", None if it has exited."""
    if not is_alive(pid):
        return None
    with suppress(OSError):  # it is hidden from this user
        return f"{Path(f'/proc/{pid}/comm').read_text('utf-8', 'replace').strip()} ({pid})"
    return f"pid {pid}"


def name_spawner() -> None:
    """Name this process so that it is not taken for part of a run."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"{_SPAWNER}{os.getpid()}", "ascii")


def why_unmarked() -> str | None:
    """Return why this process must not set marks, None if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    if mark_in(soft):
        return "it is part of another dispatcher's run, whose mark its own runs keep"
    if hard != resource.RLIM_INFINITY and hard < _FLAG | _UID_BITS:
        return CANNOT_MARK
    return None


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
