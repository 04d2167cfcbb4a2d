"""The kernel's out-of-memory killer: this process's protection from it, and its kills."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

#: This process's score, from -1000 (never chosen) to 1000: proc_pid_oom_score_adj(5).
SCORE = "/proc/self/oom_score_adj"

#: The score of a worker whose executor is protected: the default of processes.
ORDINARY = b"0"

_OOM_KILL = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)

#: Bytes of a cgroup's counters: about 150.
_MOST_BYTES = 4096


class OomScore:
    """Lets workers be born without this process's protection.

    A worker inherits its parent's score, so the parent takes the worker's score while it spawns.
    Any process may raise its score, and lower it to the lowest that a privileged one set.
    """

    def __init__(self, descriptor: int, own: bytes, report: Callable[[str], object]) -> None:
        self._descriptor = descriptor
        self._own = own
        self._report = report

    @classmethod
    def protected(cls, report: Callable[[str], object], path: str = SCORE) -> OomScore | None:
        """Return the score of this process if it is protected and may lend another to workers.

        `report` is called with the reason if it may not.
        """
        try:
            own = Path(path).read_bytes().strip()
            if int(own) >= 0:
                return None
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except ValueError:
            return None
        except OSError as error:
            report(f"{path}: {error.strerror}")
            return None
        score = cls(descriptor, own, report)
        if score.take_back():  # tested here, where a refusal costs nothing
            return score
        score.close()
        return None

    def close(self) -> None:
        os.close(self._descriptor)

    def lend(self) -> None:
        """Take the worker's score. Never fails: otherwise the worker is born protected."""
        self._set(ORDINARY)

    def take_back(self) -> bool:
        """Take back our own score; return whether that was allowed."""
        return self._set(self._own)

    def _set(self, score: bytes) -> bool:
        try:
            os.pwrite(self._descriptor, score + b"\n", 0)
        except OSError as error:
            self._report(f"{SCORE} cannot be set to {score.decode()}: {error.strerror}")
            return False
        return True


class OomCounter:
    """Counts the processes that the kernel has ended for lack of memory in our cgroup."""

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._descriptor = -1
        for file in counters(proc):
            try:
                self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            if self.read() is not None:
                return
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self) -> int | None:
        """Return the count; None where the kernel does not count."""
        if self._descriptor < 0:
            return None
        try:
            found = _OOM_KILL.search(os.pread(self._descriptor, _MOST_BYTES, 0))
        except OSError:
            return None
        return None if found is None else int(found[1])


def counters(proc: Path) -> list[str]:
    """Return the files that may hold the counter of a process's cgroup; `proc` is its /proc.

    They are of version 2 (memory.events, with all cgroups below) or 1 (memory.oom_control,
    without them): cgroups(7), proc_pid_mountinfo(5).
    """
    try:
        own = (proc / "cgroup").read_text("utf-8", "surrogateescape").splitlines()
        mounts = (proc / "mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for number, controllers, path in (line.split(":", 2) for line in own):
        unified = number == "0" and not controllers
        if not unified and "memory" not in controllers.split(","):
            continue
        for before, _, after in (line.partition(" - ") for line in mounts):
            root, point = before.split(" ")[3:5]
            kind, *_, options = after.split(" ")
            fits = kind == "cgroup2" if unified else _has_memory(kind, options)
            if fits and (path == root or path.startswith(root.rstrip("/") + "/")):
                below = path.removeprefix(root.rstrip("/"))
                name = "memory.events" if unified else "memory.oom_control"
                found.append(f"{point}{below.rstrip('/')}/{name}")
    return found


def _has_memory(kind: str, options: str) -> bool:
    return kind == "cgroup" and "memory" in options.split(",")
