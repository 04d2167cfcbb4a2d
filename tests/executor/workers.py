"""The programs of the workers in these tests."""

import os
import sys
from pathlib import Path

from tests.eventually import eventually

#: Forks twice and leaves everything behind by which it could be found, as its arguments require.
#: Its middle process waits to be orphaned too, so that nothing is seen of it but its child.
_ESCAPES = """
import os, resource, sys
pid_file, ways = sys.argv[1], sys.argv[2].split(",")
report, written = os.pipe()
if os.fork() == 0:
    if "session" in ways:
        os.setsid()
    if "mark" in ways:
        resource.setrlimit(resource.RLIMIT_RTTIME, (resource.RLIM_INFINITY,) * 2)
    if os.fork() == 0:
        if "output" in ways:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
        with open(pid_file + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(pid_file + ".new", pid_file)
        os.execve("/bin/sleep", ["sleep", "1000"], {} if "environment" in ways else os.environ)
    os.close(written)
    os.read(report, 1)  # until the exec closes the other end
    os._exit(0)
os.close(written)
os.wait()
while not os.path.exists(pid_file):
    pass
if "leader" in ways:
    os._exit(5)
os.execve("/bin/sleep", ["sleep", "2000"], os.environ)
"""


def escapes(pid_file: Path, *ways: str) -> list[str]:
    """Return a command whose grandchild hides: `mark`, `session`, `environment`, `output`.

    With `leader` the leader exits with 5 once the grandchild is there; else it stays.
    """
    return [sys.executable, "-SE", "-c", _ESCAPES, str(pid_file), ",".join(ways)]


def pid_in(file: Path) -> int:
    """Return the pid that somebody writes into a file."""

    def probe() -> int:
        assert file.exists()
        return int(file.read_text())

    return eventually(probe)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def below(pid: int) -> list[int]:
    found = children(pid)
    for child in found:  # it grows while we go through it
        found += children(child)
    return found


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def cpu_seconds(pid: int) -> float:
    """Return what a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lives(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


#: Ignores everything that can be ignored, and has a child that does too.
STUBBORN = ["sh", "-c", "trap '' TERM HUP INT; sh -c 'sleep 1000 & wait; wait' & wait; wait; wait"]

#: Ignores SIGTERM, and has one that left its session and its environment.
WITHOUT_MARKER = ["sh", "-c", "trap '' TERM; sleep 1000 & (env -i setsid sleep 1000 &); wait"]

#: The same, and no output either: nothing shows which run it belongs to.
WITHOUT_TRACE = [
    "sh",
    "-c",
    "trap '' TERM; sleep 1000 & (env -i setsid sleep 1000 > /dev/null 2>&1 &); wait",
]
