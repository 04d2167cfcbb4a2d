"""The tasks that a verb prints one after another: by ids and ranges."""

from collections.abc import Iterator, Sequence

import click

from dispatcher.cli.param_types import TaskIds
from dispatcher.client import Client
from dispatcher.errors import DispatcherError, NoTask

task_ids_argument = click.argument(
    "tasks", metavar="ID...", type=TaskIds(), nargs=-1, required=True
)


def one_id(tasks: Sequence[int | range]) -> int | None:
    """Return the id if a single one is given, and no range."""
    first, *others = tasks
    return first if isinstance(first, int) and not others else None


def each_id(store: Client, tasks: Sequence[int | range]) -> Iterator[int]:
    """Yield the given ids, and of each range those that tasks have, each once.

    Raises `NoTask` before the first one, and `DispatcherError` for a range without a task.
    """
    for given in tasks:
        if isinstance(given, int) and store.task(given, payload=False) is None:
            raise NoTask(given)
    with store.store.snapshot():
        known = store.store.ids()
    seen: set[int] = set()
    for given in tasks:
        if isinstance(given, int):
            if given not in seen:
                seen.add(given)
                yield given
            continue
        is_empty = True
        for task_id in range(max(given.start, known.start), min(given.stop, known.stop)):
            if store.task(task_id, payload=False) is not None:
                is_empty = False
                if task_id not in seen:
                    seen.add(task_id)
                    yield task_id
        if is_empty:
            raise DispatcherError(f"no task has an id in {given.start}-{given.stop - 1}")
