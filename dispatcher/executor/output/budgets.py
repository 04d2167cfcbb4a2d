"""Keeping output files within their budgets: the oldest bytes are punched out, offsets stay valid.

The kernel writes the files, so a file may exceed its budget by what is written between two looks.
"""

from collections.abc import Container
from dataclasses import dataclass

from dispatcher import wire
from dispatcher.executor.log import Log
from dispatcher.executor.output.files import OutputFile
from dispatcher.executor.output.quiet_files import QuietFiles
from dispatcher.host.holes import BLOCK, UNSUPPORTED, next_data, punch
from dispatcher.least import Least
from dispatcher.times import NEVER, Instant

#: Seconds between two looks: at a flood, and at a file that hardly grows.
SHORTEST_INTERVAL = 0.02
LONGEST_INTERVAL = 0.125

#: Seconds between two looks at a file that cannot be watched.
UNWATCHED_INTERVAL = 0.5

#: Part of a budget that a file may grow by, at the pace it had, until the next look.
PART = 4

#: Bytes punched out at a time: bounds how long a flood can keep the loop.
MOST_PUNCHED = 1 << 28

#: Bytes of disk beyond its budget that a file may take: its last block, and the room that its
#: filesystem keeps for what comes next.
SLACK = 1 << 17

#: Such pieces that are punched out at the end of a run; the output directory's budget has the rest.
MOST_LAST_LOOKS = 16


@dataclass(slots=True, eq=False)
class BudgetedFile:
    """The output file of a live run."""

    output: OutputFile
    budget: int
    looked_at: Instant
    size: int = 0
    kept_from: int = 0
    """The offset before which everything was punched out."""


class Budgets:
    """Looks at the output files of live runs, each as often as it grows, and not while it is quiet.

    Those that hardly grow are looked at together: as few wake-ups for many as for one.
    """

    def __init__(self, log: Log, quiet: QuietFiles[BudgetedFile]) -> None:
        self._log = log
        self._quiet = quiet
        self._files: dict[wire.RunUid, BudgetedFile] = {}
        self._looks: Least[BudgetedFile] = Least()
        self._supported = True

    @property
    def due(self) -> Instant:
        """When to look again."""
        return Instant(self._looks.value)

    def watch(self, uid: wire.RunUid, output: OutputFile, budget: int, at: Instant) -> None:
        """Keep a run's file within its budget from now on."""
        if self._supported:
            file = self._files[uid] = BudgetedFile(output, budget, looked_at=at)
            self._looks.set(file, next_round(at, LONGEST_INTERVAL))

    def drop(self, uid: wire.RunUid) -> None:
        """Bring a run's file within its budget once more: nobody writes to it any longer."""
        if file := self._files.pop(uid, None):
            self._quiet.drop(file)
            self._looks.remove(file)
            if file.output.is_fresh and not file.output.disk:  # as measured for its tail
                return
            for _ in range(MOST_LAST_LOOKS):
                if not self._look(file):
                    break
            if file.output.disk > SLACK:
                size = file.output.measure()  # after the last was punched out
                if file.output.disk > max(file.budget, size) + SLACK:
                    file.output.trim()

    def close(self) -> None:
        self._quiet.close()

    def record_writes(self, ready: Container[int], at: Instant) -> None:
        """Look soon at quiet files that were written to."""
        for file in self._quiet.written(ready):
            file.looked_at = at
            self._looks.set(file, at)

    def enforce(self, at: Instant) -> None:
        """Look at the files whose time has come."""
        for file in self._looks.take(at):
            look_at = self._enforce(file, at)
            if self._supported:
                self._looks.set(file, look_at)

    def _enforce(self, file: BudgetedFile, at: Instant) -> Instant:
        """Look at a file; return when to look again."""
        before, since = file.size, max(at - file.looked_at, SHORTEST_INTERVAL)
        again = self._look(file)
        grown, file.looked_at = file.size - before, at
        if not again and grown <= 0:
            return self._watch_quiet(file, at)
        if again or grown / since >= file.budget / PART / SHORTEST_INTERVAL:
            return Instant(at + SHORTEST_INTERVAL)
        slow = at + file.budget / PART * since / grown
        return Instant(min(slow, next_round(at, LONGEST_INTERVAL)))

    def _watch_quiet(self, file: BudgetedFile, at: Instant) -> Instant:
        """Watch a quiet file for its next write; return when to look without one."""
        if not self._quiet.watch(file, f"/proc/self/fd/{file.output.descriptor}"):
            return next_round(at, UNWATCHED_INTERVAL)
        # No watch reports what was written after the look and before the watch.
        return at if file.output.measure() != file.size else NEVER

    def _look(self, file: BudgetedFile) -> bool:
        """Punch out what is too much; return whether more of it is left than is done at a time."""
        size = file.output.measure()
        if size < file.size:  # truncated by its writer
            file.kept_from = 0
        file.size = size
        end = (size - file.budget) // BLOCK * BLOCK
        if end <= 0 or not self._supported:
            return False
        piece = self._next_piece(file, end)
        if piece is None:
            file.kept_from = end
            return False
        start, until = piece
        try:
            punch(file.output.descriptor, start, until - start)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                self._give_up(file.output.path)
            return False
        file.kept_from = until
        return until < end

    def _next_piece(self, file: BudgetedFile, end: int) -> tuple[int, int] | None:
        """Return begin and end of the next part to be punched out before `end`.

        A hole costs nothing, however large: a file may have 8 EiB of it. But a worker may write
        into a hole, or reserve its room (fallocate(2)), which no search for data shows.
        """
        over = file.output.disk > file.budget + SLACK
        if file.kept_from < end:
            found = next_data(file.output.descriptor, file.kept_from)
            if found is not None and found < end:
                start = max(file.kept_from, found // BLOCK * BLOCK)
                return start, min(start + MOST_PUNCHED, end)
        return (0, end) if over else None

    def _give_up(self, path: str) -> None:
        self._supported = False
        self._files.clear()
        self._looks.clear()
        self._log("output.uncapped", path=path, reason="its filesystem cannot punch holes")


def next_round(at: Instant, interval: float) -> Instant:
    """Return the next instant that all looks `interval` seconds apart share."""
    return Instant((at // interval + 1) * interval)
