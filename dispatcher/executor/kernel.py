"""What the executor asks of the kernel about processes: one call each, none of them deciding."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections.abc import Container
from contextlib import suppress
from typing import NamedTuple

from dispatcher.executor.growth import Growth

#: The kernel's flag of its own threads, which have no program, no session and no environment.
_KERNEL_THREAD = 0x00200000

#: A process is not there. Any other error says nothing of it: we may be out of descriptors.
_NOBODY = (FileNotFoundError, ProcessLookupError)

_NANOSECONDS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_READ = os.O_RDONLY | os.O_CLOEXEC

#: Bytes per read of a file in /proc: most are smaller.
_CHUNK = 16384


#: Device and inode.
File = tuple[int, int]


class Process(NamedTuple):
    """A process as the kernel showed it; pid and start ticks together are its identity."""

    pid: int
    name: str
    parent: int
    group: int
    session: int
    start_ticks: int
    alive: bool
    """False for what runs no program any more: a zombie; or ever: a thread of the kernel."""
    bare: bool = False
    """Its environment is empty, for certain."""


class Status(NamedTuple):
    """How a process ended. Neither: somebody else reaped it."""

    exit_code: int | None = None
    signal: int | None = None


class Usage(NamedTuple):
    """What a process and the children it waited for used."""

    max_rss_bytes: int | None = None
    cpu_seconds: float | None = None


class Kernel:
    """The processes below this one, and the one place where it waits.

    OSError of any method: the host is short of something, and nothing is known.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.session = os.getsid(0)
        self._poll = select.epoll()
        # Orphans are handed to the main thread; kept open because it is read at every exit.
        self._children = os.open(f"/proc/self/task/{self.pid}/children", _READ)
        self._leaders: set[bytes] = set()
        self.growth = Growth()
        if self.growth.descriptor >= 0:
            self.watch(self.growth.descriptor)

    def close(self) -> None:
        """Give the descriptors back; the processes are not touched."""
        self._poll.close()
        self.growth.close()
        os.close(self._children)

    # Waiting -------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> list[int]:
        """Return the descriptors that have something to say, waiting for one."""
        return [descriptor for descriptor, _ in self._poll.poll(timeout)]

    def watch(self, descriptor: int, *, writable: bool = False) -> None:
        """Wait for `descriptor` too; once more changes what for."""
        events = select.EPOLLIN | select.EPOLLOUT if writable else select.EPOLLIN
        try:
            self._poll.register(descriptor, events)
        except FileExistsError:
            self._poll.modify(descriptor, events)

    def ignore(self, descriptor: int) -> None:
        """Wait for `descriptor` no more."""
        self._poll.unregister(descriptor)

    def watch_edge(self, descriptor: int) -> None:
        """Wait for news on `descriptor`, which nobody will read."""
        self._poll.register(descriptor, select.EPOLLIN | select.EPOLLET)

    # Leaders: our own children, unreaped until their tree is gone ----------------------------

    def adopt(self, leader: int) -> int | None:
        """Return a watched handle of a leader just spawned; none when descriptors are short."""
        self._leaders.add(b"%d" % leader)
        try:
            handle = os.pidfd_open(leader)
        except OSError:
            return None
        try:
            self._poll.register(handle, select.EPOLLIN)
        except OSError:
            os.close(handle)
            return None
        return handle

    def release(self, handle: int) -> None:
        """Close a leader's handle and wait for it no more."""
        # Closing alone would not do: a child just spawned may not have closed its copy yet, and as
        # long as it has one this descriptor, which nobody can read any more, is ready.
        self._poll.unregister(handle)
        os.close(handle)

    def ticks(self) -> int:
        """Return the present in the unit of `Process.start_ticks`."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _NANOSECONDS_PER_TICK

    def start_ticks(self, leader: int, *, since: int) -> int:
        """Return when a leader started that was spawned after `since`."""
        # Born within one tick it need not be asked; being asked it would first finish its exec.
        if self.ticks() == since:
            return since
        with suppress(OSError):
            found = self.look(leader)
            return found.start_ticks if found else since
        return since

    def exit_of(self, leader: int) -> Status | None:
        """Return how a leader ended, without reaping it; None while it lives."""
        try:
            seen = os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return Status()
        if seen is None:
            return None
        if seen.si_code == os.CLD_EXITED:
            return Status(exit_code=seen.si_status)
        return Status(signal=seen.si_status)

    def reap(self, leader: int) -> Usage:
        """Reap a dead leader; from now on its pid may belong to anyone."""
        self._leaders.discard(b"%d" % leader)
        try:
            _, _, usage = os.wait4(leader, os.WNOHANG)
        except ChildProcessError:
            return Usage()
        # A spawned process starts with its parent's high-water mark, so below that nobody knows.
        ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rss = usage.ru_maxrss * 1024 if usage.ru_maxrss > ours else None
        return Usage(max_rss_bytes=rss, cpu_seconds=usage.ru_utime + usage.ru_stime)

    def signal_group(self, leader: int, signum: int) -> None:
        """Signal the process group of an unreaped leader: nobody else can have its pid."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signum)

    # Every other process ---------------------------------------------------------------------

    def orphans(self) -> list[int]:
        """Return our children that are no unreaped leaders: dead or alive, in no order."""
        names: list[bytes] = []
        position = 0
        while chunk := os.pread(self._children, _CHUNK, position):
            names += chunk.split()
            position += len(chunk)
        return [int(name) for name in set(names) - self._leaders]

    def reap_if_dead(self, orphan: int) -> bool:
        """Reap a child by its pid, never "any child": that would take an unreaped leader."""
        try:
            return os.waitpid(orphan, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True

    def children(self, pid: int) -> list[int]:
        """Return the children of all threads of `pid`; what it forks meanwhile may be missing."""
        found: list[int] = []
        with suppress(*_NOBODY):
            for task in os.listdir(f"/proc/{pid}/task"):
                found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
        return found

    def everyone(self) -> list[int]:
        """Return the pids of all processes that we may see."""
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]

    def look(self, pid: int) -> Process | None:
        """Return what is known of `pid`; None when nobody has it."""
        try:
            stat = _read(f"/proc/{pid}/stat")
        except _NOBODY:
            return None
        name_end = stat.rindex(b")")
        fields = stat[name_end + 2 :].split()
        threads = int(fields[17])
        return Process(
            pid=pid,
            name=stat[stat.index(b"(") + 1 : name_end].decode(errors="replace"),
            parent=int(fields[1]),
            group=int(fields[2]),
            session=int(fields[3]),
            start_ticks=int(fields[19]),
            # A zombie with more threads is one whose main thread alone has ended.
            alive=(fields[0] not in {b"Z", b"X"} or threads > 1)
            and not int(fields[6]) & _KERNEL_THREAD,
            bare=fields[47] == fields[48] != b"0",
        )

    def signal(self, process: Process, signum: int) -> bool:
        """Signal exactly this process; False, and no signal, when its pid is somebody else's."""
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return False
        try:
            now = self.look(process.pid)
            if now is None or now.start_ticks != process.start_ticks:
                return False
            signal.pidfd_send_signal(handle, signum)
        except (ProcessLookupError, PermissionError):
            return False
        else:
            return True
        finally:
            os.close(handle)

    def environment(self, process: Process) -> bytes | None:
        """Return a process's environment, empty when it is secret; None: ask again.

        In the middle of an exec it reads as empty, which is no answer.
        """
        try:
            found = _read(f"/proc/{process.pid}/environ")
        except PermissionError:
            return b""
        except _NOBODY:
            found = b""
        if found:
            return found
        now = self.look(process.pid)
        return b"" if now is None or now.bare or not now.alive else None

    def written(self, pid: int, files: Container[File]) -> File | None:
        """Return which of these files a process has open for writing; None: none of them."""
        with suppress(PermissionError, *_NOBODY):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(*_NOBODY):
                    there = os.stat(f"/proc/{pid}/fd/{name}")
                    file = (there.st_dev, there.st_ino)
                    if file in files and _writes(pid, name):
                        return file
        return None


def _writes(pid: int, descriptor: str) -> bool:
    for line in _read(f"/proc/{pid}/fdinfo/{descriptor}").splitlines():
        if line.startswith(b"flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def _read(path: str) -> bytes:
    descriptor = os.open(path, _READ)
    try:
        found = os.read(descriptor, _CHUNK)
        if len(found) < 4000:  # less than the page that the kernel fills at a time
            return found
        chunks = [found]
        while chunk := os.read(descriptor, _CHUNK):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)
