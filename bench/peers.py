"""Other programs that run a queue of commands, as far as they are installed, with no-op tasks.

Each measures from where all tasks are queued to the end of the last one, and the CPU of all that
runs them, workers included. What only fills the queue is not measured, as with the dispatcher.
"""

import ctypes
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from noop import Figures

TRUE = "/bin/true"

#: Tasks of those that take long to fill or to run the queue.
MOST = 300

#: prctl(2).
_SET_CHILD_SUBREAPER = 36


def xargs(tasks: int, slots: int, _where: Path) -> Figures:
    """Measure the program that keeps no state."""
    return _piped(tasks, ["xargs", "-P", str(slots), "-n", "1", TRUE])


def parallel(tasks: int, slots: int, _where: Path) -> Figures:
    """Measure GNU parallel, without its log of jobs."""
    return _piped(min(tasks, MOST), ["parallel", "--will-cite", "-j", str(slots), TRUE])


def task_spooler(tasks: int, slots: int, where: Path) -> Figures:
    """Measure task-spooler, whose queue is in memory, and whose tasks wait in a process each."""
    where.mkdir()
    tasks = min(tasks, MOST)
    gate = where / "gate"
    environ = {**os.environ, "TS_SOCKET": str(where / "socket"), "TMPDIR": str(where)}

    def call(*words: str) -> str:
        done = subprocess.run(["tsp", *words], env=environ, capture_output=True, check=True)
        return done.stdout.decode().strip()

    os.mkfifo(gate)
    with _adopting():
        call("-S", "1")
        call("cat", str(gate))
        for _ in range(tasks):
            last = call(TRUE)
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        call("-S", str(slots))
        gate.write_bytes(b"\n")
        call("-w", last)
        seconds = time.monotonic() - begin
        call("-K")
    return Figures(tasks / seconds, _cpu_since(before) / tasks * 1e6)


def huey(tasks: int, slots: int, where: Path) -> Figures:
    """Measure Huey's consumer with threads, on SQLite that syncs each commit."""
    where.mkdir()
    program = [sys.executable, str(Path(__file__).with_name("huey_tasks.py"))]
    environ = {**os.environ, "HUEY_DATABASE": str(where / "huey.db")}
    subprocess.run([*program, "fill", str(tasks)], env=environ, check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*program, "consume", str(tasks), str(slots)],
        env=environ,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return Figures(tasks / float(done.stdout), _cpu_since(before) / tasks * 1e6)


#: By name: what measures it, and whether it is installed.
PEERS = {
    "xargs": (xargs, shutil.which("xargs") is not None),
    "task-spooler": (task_spooler, shutil.which("tsp") is not None),
    "GNU parallel": (parallel, shutil.which("parallel") is not None),
    "Huey": (huey, importlib.util.find_spec("huey") is not None),
}


def _piped(tasks: int, command: list[str]) -> Figures:
    lines = b"".join(b"%d\n" % number for number in range(tasks))
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, input=lines, stdout=subprocess.DEVNULL, check=True)
    return Figures(tasks / (time.monotonic() - begin), _cpu_since(before) / tasks * 1e6)


def _cpu_since(before: resource.struct_rusage) -> float:
    """Return the CPU seconds of children that ended since."""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def _adopting() -> Iterator[None]:
    """Become the parent of the orphans of our children, and wait for all in the end."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    with suppress(ChildProcessError):
        while True:
            os.wait()
    prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
