"""What /proc shows of a process, and what is known of a process that it hides."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from dispatcher.host.marks import is_alive

#: The kernel's flag of its own threads, which have no program, no session and no environment.
_KERNEL_THREAD = 0x00200000

#: A process is not there. Other errors prove nothing about it: we may be out of descriptors.
MISSING = (FileNotFoundError, ProcessLookupError)

#: A process is not there, or is hidden from us (hidepid, a set-gid program).
_NOT_SHOWN = (PermissionError, *MISSING)

#: Start ticks of a process that /proc does not show.
UNKNOWN_START = -1

#: Bytes per read of a file in /proc: most are smaller.
_CHUNK = 16384

#: Bytes that a read returns at least where more follows: less than the page that the kernel fills
#: at a time, by more than a line of any list.
LEAST_OF_MORE = 4000

#: Pid and start ticks: no other process ever has both.
Identity = tuple[int, int]

#: Device and inode.
File = tuple[int, int]


class Process(NamedTuple):
    """A process as the kernel showed it."""

    pid: int
    name: str
    parent: int
    """For an opaque process: the process that lists it as a child, 0 if none does."""
    group: int
    session: int
    start_ticks: int
    alive: bool
    """False for a zombie, and for a thread of the kernel."""
    bare: bool = False
    """Its environment is certainly empty."""
    mark: int = 0
    """The mark by which it was found, if it was."""

    @property
    def identity(self) -> Identity:
        """Pid and start ticks, which no other process ever has both of."""
        return (self.pid, self.start_ticks)

    @property
    def opaque(self) -> bool:
        """Whether /proc hides it: its existence is known, and little more."""
        return self.start_ticks == UNKNOWN_START


def look(pid: int) -> Process | None:
    """Return the process `pid`, opaque if /proc hides it; None if it does not exist."""
    try:
        stat = read(f"/proc/{pid}/stat")
    except _NOT_SHOWN:
        return _opaque(pid)
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


def hidden(pid: int, mark: int) -> Process:
    """Return a process of which only the mark is known."""
    return Process(pid, f"pid {pid}", 0, 0, 0, UNKNOWN_START, alive=True, mark=mark)


def _opaque(pid: int) -> Process | None:
    # These two system calls need no right: they distinguish a hidden process from none.
    try:
        group, session = os.getpgid(pid), os.getsid(pid)
    except OSError:
        return None
    return Process(pid, f"pid {pid}", 0, group, session, UNKNOWN_START, alive=is_alive(pid))


def children(pid: int) -> list[int]:
    """Return the children of all threads of `pid`; those forked meanwhile may be missing.

    Empty for an opaque process, whose children become our own once it is dead.
    """
    found: list[int] = []
    with suppress(*_NOT_SHOWN):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, read(f"/proc/{pid}/task/{task}/children").split())
    return found


def everyone() -> list[int]:
    """Return the pids of all processes that /proc lists for this user."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def environment(process: Process) -> bytes | None:
    """Return a process's environment, empty if it is secret; None if it cannot be read yet.

    In the middle of an exec it reads as empty.
    """
    try:
        found = read(f"/proc/{process.pid}/environ")
    except PermissionError:
        return b""
    except MISSING:
        found = b""
    if found:
        return found
    now = look(process.pid)
    return b"" if now is None or now.opaque or now.bare or not now.alive else None


def owner(pid: int) -> int | None:
    """Return the real uid of a process; None if /proc hides it."""
    with suppress(*_NOT_SHOWN):
        for line in read(f"/proc/{pid}/status").splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[1])
    return None


def written(pid: int, files: Mapping[File, str]) -> File | None:
    """Return which of these files, given with paths, a process has open for writing, if seen.

    No other file is touched: its filesystem may never answer.
    """
    known_by = {str(inode) for _, inode in files} | {
        os.path.basename(path) for path in files.values()
    }
    with suppress(*_NOT_SHOWN):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(*_NOT_SHOWN):
                if known_by.isdisjoint(_traces(pid, name)):
                    continue
                with suppress(OSError):  # its filesystem is dead, so it is not that of the outputs
                    there = os.stat(f"/proc/{pid}/fd/{name}")
                    file = (there.st_dev, there.st_ino)
                    if file in files:
                        return file
    return None


def _traces(pid: int, descriptor: str) -> set[str]:
    """Return inode and name of a descriptor that is open for writing, as far as they are shown.

    Neither needs its filesystem. The inode is shown since Linux 5.14, and may differ from that of
    stat(2) (overlayfs); the name is the one from before a rename.
    """
    facts = dict(
        line.decode().split(":", 1)
        for line in read(f"/proc/{pid}/fdinfo/{descriptor}").splitlines()
        if line.startswith((b"flags:", b"ino:"))
    )
    if int(facts["flags"], 8) & os.O_ACCMODE == os.O_RDONLY:
        return set()
    path = ""
    with suppress(OSError):  # a path may be longer than the kernel can show
        path = os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(" (deleted)")
    return {facts.get("ino", "").strip(), os.path.basename(path)} - {""}


def read(path: str) -> bytes:
    """Return a whole file of /proc. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.read(descriptor, _CHUNK)
        if len(found) < LEAST_OF_MORE:
            return found
        chunks = [found]
        while chunk := os.read(descriptor, _CHUNK):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)
