"""A worker of the random rounds. A program of its own: `python -I -S actor.py DIRECTORY NAME …`.

It records everything it does in files that all workers of a round append to, one line a write:

    births   task fence role pid start-ticks time     at the begin
    stamps   task fence time                          as long as it lives
    ends     task fence pid start-ticks code deaf time
                                                      before it exits by itself; 1: ignores TERM
    twins    task fence pid                           when a process of an earlier run lives
"""

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

STAMP_EVERY = 0.05
_FLOOD = 4 << 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("name", help="found in /proc/PID/cmdline, whatever else is cleared")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--code", type=int, default=0)
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--escape", action="store_true")
    parser.add_argument("--flood", action="store_true")
    parser.add_argument("--beat", action="store_true")
    parser.add_argument("--grandchild-of", nargs=2, metavar=("TASK", "FENCE"))
    options = parser.parse_args()
    if options.grandchild_of:
        Actor(options, *map(int, options.grandchild_of)).live_on()
    Actor(options, int(os.environ["DISPATCHER_TASK_ID"]), int(os.environ["DISPATCHER_FENCE"])).act()


class Actor:
    """One process of one run."""

    def __init__(self, options: argparse.Namespace, task: int, fence: int) -> None:
        self.options = options
        self.task = task
        self.fence = fence
        self.pid = os.getpid()
        self.ticks = start_ticks(self.pid)
        role = "grandchild" if options.grandchild_of else "leader"
        self.write("births", role, self.pid, self.ticks, now())

    def write(self, file: str, *words: object) -> None:
        line = " ".join(map(str, (self.task, self.fence, *words))) + "\n"
        descriptor = os.open(self.options.directory / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)

    def act(self) -> None:
        """Live as the arguments of a leader require."""
        self.look_for_twins()
        if self.options.ignore_term:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.options.escape:
            self.escape()
        if self.options.flood:
            os.write(1, b"All work and no play makes Jack a dull boy.\n" * (_FLOOD // 44))
        if self.options.beat:
            sys.path.insert(0, str(Path(__file__).parents[2]))
            from worker_stub.worker import Worker  # noqa: PLC0415 - it takes its time

            with Worker():
                self.stamp_for(self.options.seconds)
        else:
            self.stamp_for(self.options.seconds)
        self.end()

    def look_for_twins(self) -> None:
        """Note who of an earlier run of this task lives."""
        for task, fence, _, pid, ticks, _ in lines(self.options.directory / "births"):
            if int(task) == self.task and int(fence) != self.fence and lives(int(pid), int(ticks)):
                self.write("twins", pid)

    def escape(self) -> None:
        """Have a grandchild that shows no run: no session, parent, environment or output."""
        if os.fork():
            os.wait()
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        itself = (str(self.options.directory), self.options.name)
        whose = ("--grandchild-of", str(self.task), str(self.fence))
        os.execve(sys.executable, [*sys.orig_argv[:4], *itself, *whose], {})

    def live_on(self) -> None:
        """Stamp until somebody ends it."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            self.stamp_for(1.0)

    def stamp_for(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            time.sleep(STAMP_EVERY)
            self.write("stamps", now())

    def end(self) -> None:
        code = self.options.code
        if code == 75 and os.environ.get("DISPATCHER_LAST_OUTCOME") == "deferred":
            code = 0
        self.write("ends", self.pid, self.ticks, code, int(self.options.ignore_term), now())
        os._exit(code)


def now() -> float:
    """Return the time that all processes of this host share, whatever is done to its clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def lines(file: Path) -> list[list[str]]:
    """Return the words of each whole line."""
    text = file.read_text("ascii") if file.exists() else ""
    return [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]


def start_ticks(pid: int) -> int:
    """Return when a process started; with its pid that is its identity. 0: it is gone or dead."""
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if stat[0] not in {b"Z", b"X"}:
            return int(stat[19])
    return 0


def lives(pid: int, ticks: int) -> bool:
    return ticks == start_ticks(pid)


if __name__ == "__main__":
    main()
