"""The output directory as a whole: within its budget, and no fuller than the disk allows.

The executor keeps a living run's file within that run's own budget; the daemon, which knows the
closed runs, removes their files, the oldest first. It does so in small pieces between its turns:
each second it checks the directory's time and the disk's free space, and walks the directory only
if one of them demands it, so seldom that walks cost at most a five-hundredth of a CPU.

An output file is also the lock that prevents a twin: it is not removed while its run is open in
the store, nor, by `output_files`, while any process holds its lock.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import structlog

from dispatcher.daemon.output_walk import OutputWalk
from dispatcher.daemon_report import OutputReport
from dispatcher.host import holes, output_files
from dispatcher.times import Instant, WallTime
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Seconds between two looks at the directory's time and the disk's free space, when awake anyway,
#: and at most; and between two pieces of work.
LOOK_INTERVAL = 1.0
LONGEST_LOOK_INTERVAL = 10.0
STEP = 0.025

#: Files removed in a piece of work: some 3 ms, more on a busy disk.
REMOVED = 8

#: Seconds between two walks for each file of the last: one costs 5 µs.
WALK_INTERVAL = 0.0025

#: Seconds after which the directory is walked in any case: files grow old.
LONGEST_WALK_INTERVAL = 86_400.0

#: Seconds between two warnings while nothing more can be removed.
WARN_INTERVAL = 3_600.0


class Bounds(NamedTuple):
    """The bounds of the configuration, in bytes."""

    total_budget: int
    free_floor: int


class _Doomed(NamedTuple):
    path: str
    reason: str


class OutputDirectory:
    """Keeps the files of one output directory within their bounds."""

    def __init__(
        self,
        directory: str,
        bounds: Bounds,
        *,
        free: Callable[[str], int] | None = None,
    ) -> None:
        """`free` returns the free bytes of a directory's disk."""
        self._directory = directory
        self.bounds = bounds
        self._free = free or _free
        self._old_before = WallTime(0)
        self._walk: OutputWalk | None = None
        self._walk_at = Instant(0.0)
        self._walk_by = Instant(0.0)
        self._walked: OutputWalk | None = None
        self._changed_ns = 0
        self._doomed: deque[_Doomed] = deque()
        self._removed: Counter[str] = Counter()
        self._freed: Counter[str] = Counter()
        self._spared: set[str] = set()
        self._suspects: deque[RunUid] = deque()
        self._trouble: str | None = None
        self._warn_at = Instant(0.0)
        self._uncapped = holes.unsupported(directory)
        if self._uncapped is not None:
            log.warning("output.uncapped", reason=self._uncapped)
        self._due = Instant(0.0)
        """When work is next done, if the daemon is awake."""
        self._wake_at = Instant(0.0)

    def close(self) -> None:
        if self._walk is not None:
            self._walk.close()

    def report(self) -> OutputReport:
        free: int | None = None
        with suppress(OSError):
            free = self._free(self._directory)
        return OutputReport(
            bytes=None if self._walked is None else self._walked.bytes,
            budget_bytes=self.bounds.total_budget,
            free_bytes=free,
            floor_bytes=self.bounds.free_floor,
            trouble=tuple(text for text in (self._uncapped, self._trouble) if text is not None),
        )

    def run_due(
        self, open_runs: Callable[[], Collection[RunUid] | None], *, at: Instant
    ) -> Instant:
        """Do a piece of the work, if it is due; return when to be awake for the next.

        `open_runs` returns None while they are unknown: nothing is removed then.
        """
        if at < self._due:
            return self._wake_at
        self._due, self._wake_at = at, Instant(at + LONGEST_LOOK_INTERVAL)
        if (live := open_runs()) is not None:
            with suppress(OSError):  # the directory is missing: starts report it
                self._work(live, at=at)
            is_working = self._walk is not None or self._doomed
            self._due = Instant(at + (STEP if is_working else LOOK_INTERVAL))
            self._wake_at = self._due if is_working else self._wake_at
        return self._wake_at

    def expire(self, before: WallTime) -> None:
        self._old_before = before

    def suspects(self, *, limit: int) -> Sequence[RunUid]:
        return tuple(islice(self._suspects, limit))

    def judged(self, suspects: Sequence[RunUid], unknown: Iterable[RunUid]) -> None:
        for _ in suspects:
            self._suspects.popleft()
        self.discard((f"{self._directory}/{uid}.log" for uid in unknown), "no run")

    def discard(self, paths: Iterable[str], reason: str) -> None:
        """Remove files soon, by their names in this directory: it may have been moved since."""
        ours = (output_files.relocated(path, self._directory) for path in paths)
        self._doomed.extend(_Doomed(path, reason) for path in ours)
        self._due = self._wake_at = Instant(0.0)

    def _work(self, live: Collection[RunUid], *, at: Instant) -> None:
        if self._doomed:
            self._remove_some()
        elif self._walk is not None:
            if not self._walk.go_on(live):
                self._judge(self._walk, at)
                self._walk = None
        elif self._wants_walk(at, busy=bool(live)):
            self._walk = OutputWalk(self._directory, self._old_before * 1_000_000, self._spared)
            self._spared = set()

    def _wants_walk(self, at: Instant, *, busy: bool) -> bool:
        if at < self._walk_at:
            return False
        changed_ns, self._changed_ns = self._changed_ns, _changed_ns(self._directory)
        return (
            busy
            or changed_ns != self._changed_ns
            or at >= self._walk_by
            or self._free(self._directory) < self.bounds.free_floor
        )

    def _judge(self, walk: OutputWalk, at: Instant) -> None:
        """Choose the files to remove after a complete walk."""
        self._walked = walk
        self._walk_at = Instant(at + walk.files * WALK_INTERVAL)
        self._walk_by = Instant(at + LONGEST_WALK_INTERVAL)
        self._suspects = walk.suspects
        surplus = walk.bytes - self.bounds.total_budget
        missing = self.bounds.free_floor - self._free(self._directory)
        excess = max(surplus, missing)
        reason = "total_budget" if surplus >= missing else "free_floor"
        oldest = walk.oldest()
        for path, size in oldest:
            if excess <= 0:
                break
            excess -= size
            self._doomed.append(_Doomed(path, reason))
        if excess > 0 and walk.removable == len(oldest):
            self._report_excess(reason, walk, at)
        else:
            self._trouble = None

    def _report_excess(self, reason: str, walk: OutputWalk, at: Instant) -> None:
        free, bounds = self._free(self._directory), self.bounds
        if reason == "total_budget":
            excess = f"output takes {_mib(walk.bytes)} of {_mib(bounds.total_budget)}"
        else:
            excess = f"{_mib(free)} of the disk are free, {_mib(bounds.free_floor)} are wanted"
        self._trouble = f"{excess}, and no run that is over has output left to remove"
        if at >= self._warn_at:
            self._warn_at = Instant(at + WARN_INTERVAL)
            log.warning(
                "output.overflowed",
                reason=reason,
                output_bytes=walk.bytes,
                free_bytes=free,
                message=self._trouble,
            )

    def _remove_some(self) -> None:
        for _ in range(min(REMOVED, len(self._doomed))):
            path, reason = self._doomed.popleft()
            size = output_files.remove(path)
            if size is None:
                self._spared.add(path)
            elif size >= 0:
                self._removed[reason] += 1
                self._freed[reason] += size
        if not self._doomed:
            for reason, files in self._removed.items():
                freed = self._freed[reason]
                log.info("output.removed", reason=reason, files=files, freed_bytes=freed)
            self._removed.clear()
            self._freed.clear()


def _changed_ns(directory: str) -> int:
    return os.stat(directory).st_mtime_ns  # noqa: PTH116 - a Path for each look


def _free(directory: str) -> int:
    room = os.statvfs(directory)
    if room.f_blocks == 0:  # unknown
        return 1 << 62
    return room.f_bavail * room.f_frsize


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
