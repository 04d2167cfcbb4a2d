"""Deletes old tasks with their runs and outputs, in small transactions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from dispatcher.config.config import Config
from dispatcher.host import output_files
from dispatcher.model import Pruned, TaskState
from dispatcher.store.api import OperatorStore
from dispatcher.times import StoreTime


def prune(
    store: OperatorStore,
    config: Config,
    *,
    older_than_ms: int,
    states: Collection[TaskState],
    tell: Callable[[int], object],
) -> Pruned:
    """Delete finished tasks: see `Client.prune`."""
    tasks = 0
    removed: list[str] = []
    for batch in _batches(store, config, older_than_ms, states):
        tasks += batch.tasks
        for path in batch.output_paths:
            ours = output_files.relocated(path, str(config.output_dir))
            size = output_files.remove(ours)
            if size is not None and size >= 0:
                removed.append(ours)
        tell(tasks)
    return Pruned(tasks, tuple(removed))


def _batches(
    store: OperatorStore, config: Config, older_than_ms: int, states: Collection[TaskState]
) -> Iterator[Pruned]:
    from dispatcher import bulk  # noqa: PLC0415 - no submit needs it

    turns = bulk.Turns(store, config.state_dir)
    began: list[StoreTime] = []  # so that it ends, however fast others finish

    def delete(now: StoreTime) -> Pruned:
        began.append(now)
        before = StoreTime(began[0] - older_than_ms)
        return store.prune(before=before, limit=turns.rows, states=states)

    remedy = "prune again; output that has lost its runs goes when it is old enough"
    more = True
    while more:
        yield (batch := turns.take(delete, remedy=remedy, harmless_twice=False))
        more = batch.more
