"""Deletes what finished long ago, a little at a time."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import structlog

from dispatcher.store.api import OperatorStore
from dispatcher.supervisor.turn import Memory, Turn
from dispatcher.times import NEVER, Alarm, Instant, StoreTime, WallTime
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Rows deleted, and runs looked up, in one transaction. Bounds how long a claim waits.
PRUNE_BATCH = 200
LOOKUP_BATCH = 500

#: Seconds between two batches, slow enough for the removal of their files; and between two looks,
#: of which a short retention has four.
BATCH_INTERVAL = 0.5
LOOK_INTERVAL = 60.0


class Files(Protocol):
    """The output directory, for the deciding part."""

    def expire(self, before: WallTime) -> None:
        """Set the date before which files are older than the retention."""

    def suspects(self, *, limit: int) -> Sequence[RunUid]:
        """Return some runs with files older than the retention, until they are `judged`."""

    def judged(self, suspects: Sequence[RunUid], unknown: Iterable[RunUid]) -> None:
        """Remove the files of the runs that the store does not know."""

    def discard(self, paths: Iterable[str], reason: str) -> None:
        """Remove files soon."""


class Retention:
    """Deletes tasks that finished before the retention, with their runs and output, and events.

    Files are removed after the commit. A file that outlives its row, as we died in between, is
    found by its age, and removed if the store does not know its run.
    """

    def __init__(self, store: OperatorStore, memory: Memory, files: Files | None) -> None:
        self._store = store
        self._memory = memory
        self._files = files
        self._next_look = Alarm()
        self._tasks = 0

    @property
    def due(self) -> Instant:
        return NEVER if self._memory.settings.retention is None else self._next_look.at

    def is_due(self, at: Instant) -> bool:
        return at >= self.due

    def do(self, turn: Turn) -> None:
        """Delete some of what is too old.

        Nothing in the first hour after a boot: a wrong clock would move store time ahead.
        """
        retention = self._memory.settings.retention
        if retention is None:
            return
        calendar = self._store.calendar()
        if calendar.is_fresh:
            turn.after(partial(self._next_look.set, turn.at + LOOK_INTERVAL))
            return
        before = StoreTime(turn.now - round(retention * 1000))
        if self._files is not None:
            turn.after(partial(self._files.expire, calendar.date(before)))
        pruned = self._store.prune(before=before, limit=PRUNE_BATCH)
        others = self._store.prune_events(before=before, limit=PRUNE_BATCH)
        more = self._remove_unknown_files(turn) or pruned.more or others == PRUNE_BATCH
        interval = BATCH_INTERVAL if more else min(LOOK_INTERVAL, retention / 4)
        turn.after(partial(self._next_look.set, turn.at + interval))
        turn.after(partial(self._remember_pruned, pruned.tasks, pruned.output_paths, more=more))

    def _remove_unknown_files(self, turn: Turn) -> bool:
        """Remove files that belong to no run; return whether there may be more."""
        if self._files is None or self._memory.hello is None:
            return False
        suspects = self._files.suspects(limit=LOOKUP_BATCH)
        if not suspects:
            return False
        ours = self._store.known_runs(suspects) | self._memory.live.keys() | self._memory.surplus
        unknown = [uid for uid in suspects if uid not in ours]
        turn.after(partial(self._files.judged, suspects, unknown))
        return len(suspects) == LOOKUP_BATCH

    def _remember_pruned(self, tasks: int, paths: Sequence[str], *, more: bool) -> None:
        if self._files is not None and paths:
            self._files.discard(paths, "retention")
        self._tasks += tasks
        if self._tasks and not more:
            log.info("task.pruned", tasks=self._tasks)
            self._tasks = 0
