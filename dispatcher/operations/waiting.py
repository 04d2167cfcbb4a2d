"""Waits until tasks rest: finished or held, so that nothing happens to them until a person acts."""

from collections.abc import Callable, Collection, Iterable, Iterator

from dispatcher.model import FINISHED, Task, TaskState
from dispatcher.store.api import ReaderStore
from dispatcher.times import NEVER, Instant, instant, sleep

#: Seconds between two looks at the store.
POLL = 0.5

#: Tasks read in one look, in one snapshot: about 10 ms.
_BATCH = 500


def is_at_rest(task: Task | None) -> bool:
    """Return whether nothing happens to a task until a person acts; a deleted one is None."""
    return task is None or task.state in FINISHED or task.state is TaskState.HELD


def deadline(timeout_ms: int | None) -> Instant:
    """Return the instant at which a wait is over; None: never."""
    return NEVER if timeout_ms is None else Instant(instant() + timeout_ms / 1000)


def each_at_rest(
    store: ReaderStore,
    task_ids: Iterable[int],
    *,
    any_one: bool = False,
    until: Instant = NEVER,
    report: Callable[..., object] = bool,
) -> Iterator[tuple[int, Task | None]]:
    """Yield each task when it rests, None for a deleted one; `report` is called with how many do.

    Ends when all rest, with `any_one` after the first look that finds one, and at the instant
    `until` after a last look at all.
    """
    waiting = list(dict.fromkeys(task_ids))
    total = len(waiting)
    while waiting:
        is_over = instant() >= until
        batch, rest = (waiting, []) if is_over else (waiting[:_BATCH], waiting[_BATCH:])
        open_ = []
        for task_id, task in _read(store, batch):
            if is_at_rest(task):
                yield task_id, task
            else:
                open_.append(task_id)
        moved = len(open_) < len(batch)
        # All must rest in the end, so the first ones are as good to watch as others.
        waiting = rest + open_ if moved or any_one else open_ + rest
        report(total - len(waiting))
        if is_over or (any_one and moved):
            return
        if waiting and not moved:
            sleep(max(0.0, min(POLL, until - instant())))


def _read(store: ReaderStore, task_ids: Collection[int]) -> Iterator[tuple[int, Task | None]]:
    """Yield tasks with their ids, in snapshots of bounded length."""
    ids = list(task_ids)
    for start in range(0, len(ids), _BATCH):
        with store.snapshot():
            found = [(task_id, store.task(task_id)) for task_id in ids[start : start + _BATCH]]
        yield from found
