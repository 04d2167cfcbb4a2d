"""Retention: what finished long ago is deleted, a little at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import structlog

from dispatcher.store.api import OperatorStore
from dispatcher.supervisor.alarm import Alarm
from dispatcher.supervisor.turn import Memory, Turn
from dispatcher.times import NEVER, Instant, StoreTime, WallTime
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Rows deleted, and runs asked after, in one transaction. Bounds how long a claim waits for it.
PRUNE_BATCH = 200
ASK_BATCH = 500

#: Seconds between two batches while there is more: slow enough for their files to follow; and
#: between two looks, of which there are four in a short retention.
BATCH_PAUSE = 0.5
LOOK_INTERVAL = 60.0


class Files(Protocol):
    """The output directory, as far as the deciding part is concerned."""

    def expire(self, before: WallTime) -> None:
        """Take note that files last written before this date are older than the retention."""

    def suspects(self, *, limit: int) -> Sequence[RunUid]:
        """Return some runs with files older than the retention, until they are `judged`."""

    def judged(self, suspects: Sequence[RunUid], unknown: Iterable[RunUid]) -> None:
        """Remove the files of those that the store does not know."""

    def discard(self, paths: Iterable[str], reason: str) -> None:
        """Remove files soon."""


class Retention:
    """Deletes tasks that finished before the retention, their runs and output; and stray output.

    Files go after the commit. One whose row went and that did not, because we died in between, has
    no run: it is found by its age, and the store asked whether it knows it.
    """

    def __init__(self, store: OperatorStore, memory: Memory, files: Files | None) -> None:
        self._store = store
        self._memory = memory
        self._files = files
        self._next_look = Alarm()
        self._tasks = 0

    @property
    def due(self) -> Instant:
        """When to look next."""
        return NEVER if self._memory.settings.retention is None else self._next_look.at

    def is_due(self, at: Instant) -> bool:
        """Say whether it is time for a look."""
        return at >= self.due

    def do(self, turn: Turn) -> None:
        """Delete some of what is too old.

        Nothing for an hour after a boot, whose clock may be wrong and then moves store time ahead.
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
        more = self._ask_after_files(turn) or pruned.more
        pause = BATCH_PAUSE if more else min(LOOK_INTERVAL, retention / 4)
        turn.after(partial(self._next_look.set, turn.at + pause))
        turn.after(partial(self._tell, pruned.tasks, pruned.output_paths, more=more))

    def _ask_after_files(self, turn: Turn) -> bool:
        """Have the files removed that belong to no run; say whether there may be more of them."""
        if self._files is None or self._memory.hello is None:
            return False
        suspects = self._files.suspects(limit=ASK_BATCH)
        if not suspects:
            return False
        ours = self._store.known_runs(suspects) | self._memory.live.keys() | self._memory.surplus
        unknown = [uid for uid in suspects if uid not in ours]
        turn.after(partial(self._files.judged, suspects, unknown))
        return len(suspects) == ASK_BATCH

    def _tell(self, tasks: int, paths: Sequence[str], *, more: bool) -> None:
        if self._files is not None and paths:
            self._files.discard(paths, "retention")
        self._tasks += tasks
        if self._tasks and not more:
            log.info("task.pruned", tasks=self._tasks)
            self._tasks = 0
