"""The kernel's calls about processes, and the one wait: no decision is made here."""

import os
import resource
import select
import signal
import time
from collections.abc import Callable, Container
from contextlib import suppress
from typing import NamedTuple

from dispatcher.executor.system import procfs
from dispatcher.executor.system.oom import OomCounter
from dispatcher.executor.system.procfs import Process
from dispatcher.host import marks
from dispatcher.host.hidden import HiddenPids

_NANOSECONDS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

#: Bytes per read of a list of children.
_CHUNK = 16384


#: Descriptors that one look may find ready: more than there are runs.
_MOST_READY = 4096


class ProcessStatus(NamedTuple):
    """How a process ended. Neither field is set if something else reaped it."""

    exit_code: int | None = None
    signal: int | None = None


class Usage(NamedTuple):
    """What a process and the children it waited for used."""

    max_rss_bytes: int | None = None
    cpu_seconds: float | None = None


class Kernel:
    """The processes below this one, and the one place where it waits.

    OSError of any method means that the host is short of something, and nothing else.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.session = os.getsid(0)
        self._poll = select.epoll()
        # Orphans are handed to the main thread, also those below a leader that another thread has
        # spawned and lists. Kept open because it is read at every exit.
        self._children = os.open(f"/proc/self/task/{self.pid}/children", os.O_RDONLY | os.O_CLOEXEC)
        self._leaders: set[bytes] = set()
        self._high_water = 0
        """The most memory that this process has had, in KiB, when it was last read."""
        self._hidden = HiddenPids()
        self._oom_counter = OomCounter()

    def close(self) -> None:
        """Close the descriptors; the processes are not touched."""
        self._poll.close()
        self._oom_counter.close()
        os.close(self._children)

    def fileno(self) -> int:
        """Return a descriptor that is readable while `wait` would return something."""
        return self._poll.fileno()

    def wait(self, timeout: float | None) -> list[int]:
        """Wait for a ready descriptor; return all that are ready.

        With a time-out of 0 that is certain. With another the result may be empty although some
        are ready: the process was stopped meanwhile, until its time was over.
        """
        return [descriptor for descriptor, _ in self._poll.poll(timeout, _MOST_READY)]

    def watch(self, descriptor: int, *, writable: bool = False) -> None:
        """Wait for `descriptor` too; a second call changes the events."""
        events = select.EPOLLIN | select.EPOLLOUT if writable else select.EPOLLIN
        try:
            self._poll.register(descriptor, events)
        except FileExistsError:
            self._poll.modify(descriptor, events)

    def ignore(self, descriptor: int) -> None:
        """Stop waiting for `descriptor`."""
        self._poll.unregister(descriptor)

    def watch_edge(self, descriptor: int) -> None:
        """Wait for new input at `descriptor`, which stays unread."""
        self._poll.register(descriptor, select.EPOLLIN | select.EPOLLET)

    def adopt(self, leader: int) -> int | None:
        """Return a watched handle of a leader just spawned; None if descriptors are short."""
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
        """Close a leader's handle and stop waiting for it."""
        # Closing alone does not suffice: a child just spawned may not have closed its copy yet, and
        # until it does epoll reports this descriptor.
        self._poll.unregister(handle)
        os.close(handle)

    def ticks(self) -> int:
        """Return the present in the unit of `Process.start_ticks`."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _NANOSECONDS_PER_TICK

    def start_ticks(self, leader: int, *, since: int) -> int:
        """Return when a leader started that was spawned after `since`."""
        # Born within one tick it needs no look, which would wait for the end of its exec.
        if self.ticks() == since:
            return since
        with suppress(OSError):
            found = self.look(leader)
            return since if found is None or found.opaque else found.start_ticks
        return since

    def exit_of(self, leader: int) -> ProcessStatus | None:
        """Return how a leader ended, without reaping it; None while it lives."""
        try:
            seen = os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ProcessStatus()
        if seen is None:
            return None
        if seen.si_code == os.CLD_EXITED:
            return ProcessStatus(exit_code=seen.si_status)
        return ProcessStatus(signal=seen.si_status)

    def reap(self, leader: int) -> Usage:
        """Reap a dead leader; from now on its pid may belong to anyone."""
        self._leaders.discard(b"%d" % leader)
        try:
            _, _, usage = os.wait4(leader, os.WNOHANG)
        except ChildProcessError:
            return Usage()
        # A spawned process starts with its parent's high-water mark: a lower one is unknown.
        if usage.ru_maxrss > self._high_water:
            self._high_water = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rss = usage.ru_maxrss * 1024 if usage.ru_maxrss > self._high_water else None
        return Usage(max_rss_bytes=rss, cpu_seconds=usage.ru_utime + usage.ru_stime)

    def signal_leader(self, leader: int, signum: int) -> None:
        """Signal an unreaped leader alone."""
        with suppress(ProcessLookupError, PermissionError):
            os.kill(leader, signum)

    def signal_group(self, leader: int, signum: int) -> None:
        """Signal the process group of an unreaped leader: its pid is not given to another."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signum)

    def oom_kills(self) -> int | None:
        """Return how many processes of our cgroup the kernel ended for lack of memory, if known."""
        return self._oom_counter.read()

    def orphans(self) -> list[int]:
        """Return our children, dead or alive, without the unreaped leaders."""
        names: list[bytes] = []
        position = 0
        while chunk := os.pread(self._children, _CHUNK, position):
            names += chunk.split()
            position += len(chunk)
            if len(chunk) < procfs.LEAST_OF_MORE:
                break
        return [int(name) for name in set(names) - self._leaders]

    def reap_if_dead(self, orphan: int) -> bool:
        """Reap a child by its pid, never "any child": that would take an unreaped leader."""
        try:
            return os.waitpid(orphan, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True

    # Methods, so that a test's kernel can have other processes.
    children = staticmethod(procfs.children)
    environment = staticmethod(procfs.environment)
    everyone = staticmethod(procfs.everyone)
    look = staticmethod(procfs.look)
    owner = staticmethod(procfs.owner)
    written = staticmethod(procfs.written)

    def mark(self, pid: int) -> int | None:
        """Return a process's mark, 0 if it has none; None if the kernel hides it."""
        try:
            return marks.read_mark(pid)
        except ProcessLookupError:
            return 0

    def kill_marked(
        self, wanted: Container[int], killed: Callable[[int], object]
    ) -> tuple[dict[int, int], bool]:
        """Send SIGKILL to each process with one of these marks as soon as it is found.

        Call `killed` with its mark. Return the marks of all processes by pid, and whether none can
        be missing.
        """

        def found(pid: int, mark: int) -> None:
            if mark in wanted and self.signal(procfs.hidden(pid, mark), signal.SIGKILL):
                killed(mark)

        return marks.read_marks(self._hidden, found)

    def signal(self, process: Process, *signums: int) -> bool:
        """Signal exactly this process; False, and no signal, if its pid is another's by now."""
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return False
        try:
            if not self._is_still(process):
                return False
            for signum in signums:
                signal.pidfd_send_signal(handle, signum)
        except (ProcessLookupError, PermissionError):
            return False
        else:
            return True
        finally:
            os.close(handle)

    def is_refused_by(self, process: Process) -> bool:
        """Whether exactly this process exists and this user may not signal it."""
        try:
            os.kill(process.pid, 0)
        except PermissionError:
            return self._is_still(process)
        except ProcessLookupError:
            return False
        return False

    def may_signal(self, pid: int) -> bool:
        """Whether a process exists that this user may signal."""
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _is_still(self, process: Process) -> bool:
        if process.opaque and process.mark:
            return self.mark(process.pid) == process.mark
        if process.opaque:  # its start is secret; that its parent has not reaped it is not
            return process.pid in self.children(process.parent)
        now = self.look(process.pid)
        return now is not None and now.start_ticks == process.start_ticks
