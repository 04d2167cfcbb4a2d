"""Deletes what finished long ago, a bounded number of rows in a transaction.

Schedules are kept here, too: until when their times are settled, and whether they are paused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dispatcher.events import EventKind
from dispatcher.execution import Rows
from dispatcher.model import FINISHED, Pruned, TaskFilter, TaskState
from dispatcher.store.engine import Values, refuse_nul
from dispatcher.store.readers import SqlReader
from dispatcher.store.statements import events as events_sql
from dispatcher.store.statements import locks as locks_sql
from dispatcher.store.statements import operators as sql
from dispatcher.store.statements import submitters as submitters_sql
from dispatcher.store.statements.given import rows_of
from dispatcher.times import StoreTime, WallTime

if TYPE_CHECKING:
    from dispatcher.schedules import ScheduleChange, ScheduleState


class SqlPruner(SqlReader):
    """The part of `OperatorStore` that deletes, and all that concerns schedules."""

    def prune(
        self, *, before: StoreTime, limit: int, states: Collection[TaskState] = FINISHED
    ) -> Pruned:
        found = list(self._old(before, limit, states))
        if not self.engine.dialect.shared:
            return self._delete(found, limit)
        # A submit that locked a parent while these were searched changed no row of it.
        left = self._delete(self._unneeded([task_id for task_id, _ in found]), limit)
        return Pruned(left.tasks, left.output_paths, more=left.more or len(found) == limit)

    def prune_each(self, task_ids: Sequence[int], wanted: TaskFilter, *, limit: int) -> Pruned:
        self.lock_rows(Rows(tasks=task_ids))
        matching = {one.id for one in self.matching_among(task_ids, wanted)}
        return self._delete(self._unneeded([one for one in task_ids if one in matching]), limit)

    def prune_events(self, *, before: StoreTime, limit: int) -> int:
        return self.engine.change(events_sql.PRUNE, {"before": before, "limit": limit})

    def _unneeded(self, task_ids: Sequence[int]) -> Sequence[tuple[int, int]]:
        """Return id and payload (in 64 KiB) of those of these tasks that may be deleted."""
        rows = [{"id": task_id, "place": place} for place, task_id in enumerate(task_ids)]
        return self.engine.rows(sql.FINISHED, {"given": rows_of(rows)}) if rows else ()

    def _delete(self, found: Sequence[tuple[int, int]], limit: int) -> Pruned:
        """Delete at most `limit` rows of tasks, given by id and size of payload (in 64 KiB)."""
        rows = rows_of([{"id": task_id} for task_id, _ in found])
        runs: dict[int, int] = dict(
            self.engine.rows(sql.MANY_RUNS, {"given": rows, "limit": limit})
        )
        whole: list[Values] = []
        left = limit
        for task_id, payload in found:
            if payload >= left and whole:
                break
            if runs[task_id] >= left:  # no room for the task itself, and it may have more
                paths = self._delete_whole(whole)
                return Pruned(len(whole), (*paths, *self._delete_runs(task_id, left)), more=True)
            whole.append({"id": task_id})
            left = max(0, left - runs[task_id] - payload - 1)
        more = len(whole) < len(found) or len(whole) == limit
        return Pruned(len(whole), self._delete_whole(whole), more=more)

    def _delete_whole(self, tasks: Sequence[Values]) -> tuple[str, ...]:
        """Delete tasks with their runs, whose outputs are returned, and unused environments."""
        if not tasks:
            return ()
        rows = {"given": rows_of(tasks)}
        if self.engine.dialect.shared:
            self.engine.rows(locks_sql.KEYS_OF, {**rows, "queue": None})
            self.engine.rows(locks_sql.ENVIRONMENTS, rows)
        paths = tuple(path for (path,) in self.engine.rows(sql.OUTPUTS, rows))
        environments = {number for (number,) in self.engine.rows(sql.DELETE, rows)} - {None}
        if environments:
            rows = {"given": rows_of([{"id": number} for number in environments])}
            if self.engine.dialect.shared:
                self.engine.rows(locks_sql.UNUSED_ENVIRONMENTS, rows)
            self.engine.change(submitters_sql.REMOVE_UNUSED_ENVIRONMENTS, rows)
        return paths

    def _delete_runs(self, task_id: int, limit: int) -> tuple[str, ...]:
        runs = self.engine.rows(sql.SOME_RUNS, {"id": task_id, "limit": limit})
        self.engine.change(
            sql.DELETE_RUNS, {"given": rows_of([{"id": run_id} for run_id, _ in runs])}
        )
        self.engine.change(sql.DELETE_SOME_EVENTS, {"id": task_id, "limit": limit})
        return tuple(path for _, path in runs)

    def _old(
        self, before: StoreTime, limit: int, states: Collection[TaskState]
    ) -> Iterator[tuple[int, int]]:
        """Yield id and payload (in 64 KiB) of at most `limit` tasks, of each state oldest first."""
        for state in sorted(states):
            values = {"state": state.value, "before": before, "limit": limit}
            rows = self.engine.rows(sql.OLD, values)
            yield from rows
            limit -= len(rows)
            if not limit:
                return

    def take_schedules(
        self, definitions: Mapping[str, str], *, at: WallTime
    ) -> dict[str, ScheduleState]:
        from dispatcher.store import scheduling  # noqa: PLC0415 - few stores have schedules

        return scheduling.take(self.engine, definitions, at)

    def settle_schedule(self, state: ScheduleState, *, now: StoreTime) -> None:
        from dispatcher.store import scheduling  # noqa: PLC0415 - few stores have schedules

        scheduling.settle(self.engine, state, now)

    def change_schedule(
        self,
        name: str,
        change: ScheduleChange,
        *,
        reason: str | None = None,
        at: WallTime,
        now: StoreTime,
    ) -> bool:
        from dispatcher.store import scheduling  # noqa: PLC0415 - few stores have schedules

        refuse_nul({"name": name, "reason": reason})
        if done := scheduling.change(self.engine, name, change, reason, at):
            self._record(EventKind(f"schedule_{change}"), now=now, subject=name, reason=reason)
        return done
