"""Operations on tasks: accepting a few, deleting old ones, reading."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from dispatcher import commits
from dispatcher.config.config import Config
from dispatcher.dependency import TaskKey
from dispatcher.errors import InvalidTask
from dispatcher.host import output_files
from dispatcher.model import Pruned, Run, Submitted, Task, TaskFilter, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.api import OperatorStore, ReaderStore, SubmitterStore
from dispatcher.times import StoreTime

#: Parents and keys of one submit that are remembered; of more than these a task is held instead of
#: refused if its parent does not exist.
_MOST_SEEN = 100_000

_PRUNE_AGAIN = "prune again; output that has lost its runs goes when it is old enough"


def accept(store: SubmitterStore, tasks: Sequence[NewTask]) -> list[Submitted]:
    """Accept checked tasks, all or none."""

    def submit(now: StoreTime) -> list[Submitted]:
        store.watch_clock()
        return store.submit(tasks, now=now)

    is_keyed = bool(tasks) and all(task.key is not None for task in tasks)
    remedy = "see `dispatcher list` first; a --key makes it safe"
    if is_keyed:
        remedy = "submit it again, with the same key"
    return commits.change(store, submit, remedy=remedy, harmless_twice=is_keyed)


def with_parents(
    store: SubmitterStore, tasks: Iterable[NewTask], *, several: bool = False
) -> Iterator[NewTask]:
    """Yield tasks whose parents exist, or came before them.

    Raises `InvalidTask` for another one, with its number if there may be `several`. A task whose
    parent is deleted meanwhile is held, with that reason.
    """
    seen: set[int | TaskKey] = set()
    for number, task in enumerate(tasks, start=1):
        parents = {*task.after, *task.after_any}
        if parents - seen:
            with store.snapshot():
                missing = store.missing_parents([task])
            if unknown := [one for one in missing if one not in seen and len(seen) < _MOST_SEEN]:
                where = f"task {number}: " if several else ""
                raise InvalidTask(where + _unknown_parent(task, unknown[0]))
            seen |= parents
        if task.key is not None and len(seen) < _MOST_SEEN:
            seen.add(TaskKey(task.queue, task.key))
        yield task


def _unknown_parent(task: NewTask, parent: int | TaskKey) -> str:
    option = "after" if parent in task.after else "after_any"
    if isinstance(parent, TaskKey):
        return (
            f"{option}: no task of queue {parent.queue} has the key {parent.key!r}; submit it"
            " first, or in a line before"
        )
    return f"{option}: there is no task {parent}; `dispatcher list` has the ids"


def prune(
    store: OperatorStore,
    config: Config,
    *,
    before: StoreTime,
    states: Collection[TaskState],
    report: Callable[[int], object],
) -> Pruned:
    """Delete the tasks that finished before a time; those that finish meanwhile stay."""
    return _removed(_batches(store, config, before, states), config, report)


def prune_each(
    store: OperatorStore,
    config: Config,
    task_ids: Sequence[int],
    wanted: TaskFilter,
    *,
    report: Callable[[int], object],
) -> Pruned:
    """Delete those of these tasks that match and have finished; otherwise as `prune`."""
    return _removed(_batches_of_each(store, config, task_ids, wanted), config, report)


def _removed(batches: Iterable[Pruned], config: Config, report: Callable[[int], object]) -> Pruned:
    """Remove the output files of deleted tasks; return how many tasks, and which files."""
    tasks = 0
    removed: list[str] = []
    for batch in batches:
        tasks += batch.tasks
        for path in batch.output_paths:
            ours = output_files.relocated(path, str(config.output_dir))
            size = output_files.remove(ours)
            if size is not None and size >= 0:
                removed.append(ours)
        report(tasks)
    return Pruned(tasks, tuple(removed))


def _batches(
    store: OperatorStore, config: Config, before: StoreTime, states: Collection[TaskState]
) -> Iterator[Pruned]:
    from dispatcher import bulk  # noqa: PLC0415 - no submit needs it

    turns = bulk.Turns(store, config.state_dir)

    def delete(_: StoreTime) -> Pruned:
        return store.prune(before=before, limit=turns.rows, states=states)

    more = True
    while more:
        yield (batch := turns.take(delete, remedy=_PRUNE_AGAIN, harmless_twice=False))
        more = batch.more


def _batches_of_each(
    store: OperatorStore, config: Config, task_ids: Sequence[int], wanted: TaskFilter
) -> Iterator[Pruned]:
    from dispatcher import bulk  # noqa: PLC0415 - no submit needs it

    turns = bulk.Turns(store, config.state_dir)
    done = many = 0

    def delete(_: StoreTime) -> Pruned:
        return store.prune_each(task_ids[done : done + many], wanted, limit=turns.rows)

    while done < len(task_ids):
        many, more = turns.rows, True
        while more:
            yield (batch := turns.take(delete, remedy=_PRUNE_AGAIN, harmless_twice=False))
            more = batch.more
        done += many


def runs(store: ReaderStore, config: Config, task_id: int) -> list[Run]:
    """Return a task's runs, oldest first, with the present paths of their outputs."""
    with store.snapshot():
        found = store.runs(task_id)
    return [_relocated(run, str(config.output_dir)) for run in found]


def submitters_variables(store: ReaderStore, task: Task) -> list[str] | None:
    """Return the names of the variables of a task's submitter that its runs get.

    None: it is clean, or its environment is missing or damaged by hand.
    """
    if task.environment_id is None:
        return None
    with store.snapshot():
        found = store.environment(task.environment_id)
    return None if found is None else found.names


def queues(store: ReaderStore, config: Config) -> frozenset[str]:
    """Return the queues of all tasks, and those that the configuration names."""
    with store.snapshot():
        used = store.counts().keys()
    named = {config.defaults.queue, *config.queues}
    named |= {one.queue for one in config.profiles.values() if one.queue is not None}
    return frozenset({*used, *named})


def _relocated(run: Run, output_dir: str) -> Run:
    moved = output_files.relocated(run.output_path, output_dir)
    is_there = run.output_path != moved and Path(moved).exists()
    return replace(run, output_path=moved) if is_there else run
