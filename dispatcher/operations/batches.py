"""Changes of many tasks, some in each transaction, with turns for other writers between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from dispatcher import commits
from dispatcher.config.config import Config
from dispatcher.store.api import Store
from dispatcher.times import StoreTime

if TYPE_CHECKING:
    from dispatcher.bulk import Turns

T = TypeVar("T")

#: Tasks that are changed in one transaction without a turn among bulk work: a few milliseconds.
AT_ONCE = 20

_REMEDY = "see `dispatcher list`, or do the same again"


def in_batches(
    store: Store,
    config: Config,
    task_ids: Sequence[int],
    write: Callable[[Sequence[int]], Callable[[StoreTime], T]],
) -> Iterator[T]:
    """Change tasks, some in one transaction; yield what each transaction returns.

    `write` returns what changes some tasks in a transaction, and returns the same if it is repeated
    (`commits.first_answer`). Raises `CommitUnknown`, which counts the tasks that are done, for an
    error after the first transaction. Any other error means that nothing was written.
    """
    turns = _turns(store, config) if len(task_ids) > AT_ONCE else None
    done = 0
    while done < len(task_ids):
        some = task_ids[done : done + (turns.rows if turns else AT_ONCE)]
        do = write(some)
        with _counted(done, len(task_ids)):
            answer = (
                turns.take(do, remedy=_REMEDY)
                if turns
                else commits.change(store, do, remedy=_REMEDY)
            )
        done += len(some)
        yield answer


def _turns(store: Store, config: Config) -> Turns:
    from dispatcher import bulk  # noqa: PLC0415 - for many tasks

    return bulk.Turns(store, config.state_dir)


def _counted(done: int, total: int) -> AbstractContextManager[None]:
    """Raise `CommitUnknown` for an error in the body if some tasks are done already."""
    if not done:
        return nullcontext()
    return commits.report_done(f"{done} of {total} tasks are done; do the same again for the rest")
