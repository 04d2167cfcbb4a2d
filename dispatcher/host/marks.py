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
import select
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from dispatcher.host.hidden import HiddenPids, proc_hides
from dispatcher.wire import RunUid

#: Above every limit that anybody sets; the bits below carry the uid.
_FLAG = 1 << 62
_UID_BITS = (1 << 61) - 1

#: What an operator is told where no marks can be set.
CANNOT_MARK = (
    "the executor has a hard limit of RLIMIT_RTTIME: remove LimitRTTIME= from its unit, or the"
    " line `rttime` from limits.conf"
)

#: What the kernel calls an executor that sets marks, before its own pid. While it spawns, it has
#: the mark of a run that it is no part of; a child that has not left it yet has another pid.
_SPAWNER = "executor"

_LIMIT_LINE = b"Max realtime timeout"

#: Lists of processes that `read_marks` takes until all of one were there to be read.
MOST_LISTS = 20

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
    """Return the mark of a process, alive or a zombie; 0 if it has none.

    None: the kernel does not show it to this user. Raises ProcessLookupError when nobody has the
    pid.
    """
    try:
        return mark_in(resource.prlimit(pid, resource.RLIMIT_RTTIME)[0])
    except PermissionError:
        return _read_limits(pid)


def read_marks(
    hidden: HiddenPids, found: Callable[[int, int], object] | None = None
) -> tuple[dict[int, int], bool]:
    """Return the marks of all processes that have one, by pid; and whether none can be missing.

    `found` is called with each pid and its mark at once: the process may soon be gone. `hidden` is
    kept from look to look.

    A process that forks and exits, again and again, is always a pid further. It is listed all the
    same: so a list of which each process was still there to be read misses nobody.
    """
    read: dict[int, int | None] = {}
    hides = proc_hides()
    for _ in range(MOST_LISTS):
        gone, whole = False, True
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
        if hides:
            asked, whole = hidden.look()
            pids |= asked
        for pid in sorted(pids - read.keys(), reverse=True):  # the youngest lives, if any does
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


def lives(pid: int) -> bool:
    """Say whether a process has not exited yet, also where /proc does not show it. A zombie has."""
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


class Carriers:
    """The processes on this host that carry the marks of runs."""

    def __init__(self, uids: Iterable[RunUid], hidden: HiddenPids | None = None) -> None:
        """`hidden` is given where several looks follow each other."""
        self.living: defaultdict[RunUid, list[str]] = defaultdict(list)
        """As "name (pid)"."""
        self.dead: defaultdict[RunUid, set[int]] = defaultdict(set)
        """Zombies, and what has just died: it may have left others behind."""
        self.whole = True
        """Whether no process can be missing."""
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
    """Return a process by name, None if it has exited."""
    if not lives(pid):
        return None
    with suppress(OSError):  # it is hidden from this user
        return f"{Path(f'/proc/{pid}/comm').read_text('utf-8', 'replace').strip()} ({pid})"
    return f"pid {pid}"


def call_spawner() -> None:
    """Let others know this process, which is no part of a run, by its name."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"{_SPAWNER}{os.getpid()}", "ascii")


def why_unmarked() -> str | None:
    """Return why this process must not set marks; None: it may."""
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
