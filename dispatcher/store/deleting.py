"""What finished long ago, deleted in steps of a bounded number of rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from dispatcher.model import Pruned, TaskState
from dispatcher.store import statements
from dispatcher.store.engine import Engine
from dispatcher.times import StoreTime


def prune(engine: Engine, before: StoreTime, limit: int, states: Collection[TaskState]) -> Pruned:
    """Do what `Store.prune` promises."""
    tasks = 0
    paths: list[str] = []
    for task_id in _old(engine, before, limit, states):
        left = limit - tasks - len(paths)
        runs = engine.rows(statements.OLD_RUNS, {"task_id": task_id, "limit": left})
        paths += [path for _, path in runs]
        if len(runs) >= left:  # no room for the task itself, and it may have more
            engine.change_each(statements.DELETE_RUN, [{"id": run_id} for run_id, _ in runs])
            return Pruned(tasks, tuple(paths), more=True)
        engine.change(statements.DELETE, {"id": task_id})
        tasks += 1
    return Pruned(tasks, tuple(paths), more=tasks == limit)


def prunable(engine: Engine, before: StoreTime, states: Collection[TaskState]) -> int:
    """Do what `Store.prunable` promises."""
    return sum(
        engine.rows(statements.PRUNABLE, {"state": state.value, "before": before})[0][0]
        for state in states
    )


def _old(
    engine: Engine, before: StoreTime, limit: int, states: Collection[TaskState]
) -> Iterator[int]:
    """Yield at most `limit` tasks that finished before a time, of each state the oldest first."""
    for state in sorted(states):
        values = {"state": state.value, "before": before, "limit": limit}
        rows = engine.rows(statements.OLD, values)
        yield from (task_id for (task_id,) in rows)
        limit -= len(rows)
        if not limit:
            return
