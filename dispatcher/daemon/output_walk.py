"""One walk over the output directory, a piece at a time."""

import heapq
import os
from collections import deque
from collections.abc import Container
from contextlib import suppress
from itertools import islice

from dispatcher.host import output_files
from dispatcher.wire import RunUid

#: Files looked at in a piece of work: some 3 ms, more on a busy disk. Bounds how long a beat waits.
WALKED = 500

#: Files that a walk remembers as the oldest, and those that may belong to no run.
OLDEST = 1_000
SUSPECTS = 10_000


class OutputWalk:
    """What was found so far."""

    def __init__(self, directory: str, old_before_ns: int, spared: Container[str]) -> None:
        self._entries = os.scandir(directory)
        self._old_before_ns = old_before_ns
        self._spared = spared
        self._oldest: list[tuple[int, str, int]] = []
        self.files = 0
        self.bytes = 0
        self.removable = 0
        """Files of runs that are over."""
        self.suspects: deque[RunUid] = deque(maxlen=SUSPECTS)

    def go_on(self, live: Container[RunUid]) -> bool:
        """Look at some more files; return whether there are others."""
        entries = list(islice(self._entries, WALKED))
        for entry in entries:
            with suppress(OSError):  # gone meanwhile
                self._see(entry, live)
        return len(entries) == WALKED

    def close(self) -> None:
        self._entries.close()

    def oldest(self) -> list[tuple[str, int]]:
        """Return path and bytes of the files that may be removed, the oldest first."""
        return [(path, size) for _, path, size in sorted(self._oldest, reverse=True)]

    def _see(self, entry: os.DirEntry[str], live: Container[RunUid]) -> None:
        found = entry.stat(follow_symlinks=False)
        size = found.st_blocks * 512
        self.files += 1
        self.bytes += size
        name = output_files.NAME.fullmatch(entry.name)
        if name is None or name[1] in live:
            return
        if found.st_mtime_ns < self._old_before_ns:
            self.suspects.append(RunUid(name[1]))
        if size and entry.path not in self._spared:
            self.removable += 1
            keep = heapq.heappush if len(self._oldest) < OLDEST else heapq.heappushpop
            keep(self._oldest, (-found.st_mtime_ns, entry.path, size))
