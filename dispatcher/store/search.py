"""Searches tasks in bounded steps, so that no writer waits long."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from msgspec.structs import replace

from dispatcher.model import Run, Task, TaskFilter
from dispatcher.selection import Match
from dispatcher.store.api import ReaderStore
from dispatcher.times import StoreTime

_T = TypeVar("_T")

#: Ids in the range of one query. Bounds how long it holds its snapshot: 10 ms for few matches,
#: 100 ms if all match.
WINDOW = 10_000

#: Milliseconds by which the clock may be set back between two submits.
STEP_BACK = 3_600_000


def each_task(store: ReaderStore, wanted: TaskFilter, *, payload: bool = True) -> Iterator[Task]:
    """Yield the tasks that match a filter; each step is a snapshot of its own."""
    return _each(store, wanted, lambda task: task, payload=payload)


def each_with_run(store: ReaderStore, wanted: TaskFilter) -> Iterator[tuple[Task, Run | None]]:
    """Yield the same tasks without payloads, each with its last run in the same snapshot."""
    return _each(store, wanted, lambda task: (task, last_run(store, task)), payload=False)


def last_run(store: ReaderStore, task: Task) -> Run | None:
    """Return a task's last run, without the end of its output; None if it never ran."""
    return store.last_run(task.id) if task.fence else None


def _each(
    store: ReaderStore, wanted: TaskFilter, found: Callable[[Task], _T], *, payload: bool
) -> Iterator[_T]:
    left = wanted.limit
    for window in _windows(store, wanted):
        with store.snapshot():
            page = list(map(found, store.tasks(replace(window, limit=left), payload=payload)))
        yield from page
        left -= len(page)
        if left <= 0:
            return


def each_match(store: ReaderStore, parts: Iterable[TaskFilter]) -> Iterator[Match]:
    """Yield the tasks that match a filter, for each filter lowest id first, in such steps."""
    for part in parts:
        for window in _windows(store, replace(part, oldest_first=True)):
            with store.snapshot():
                page = store.matching(replace(window, limit=WINDOW))
            yield from page


def _windows(store: ReaderStore, wanted: TaskFilter) -> Iterator[TaskFilter]:
    """Yield a filter for each stretch of ids that may have matches, in the filter's order."""
    with store.snapshot():
        ids = _range_of(store, wanted)
    starts = range(ids.start, ids.stop, WINDOW)
    for start in starts if wanted.oldest_first else reversed(starts):
        stop = min(start + WINDOW, ids.stop)
        yield replace(wanted, after_id=start - 1, before_id=stop)


def _range_of(store: ReaderStore, wanted: TaskFilter) -> range:
    """Return the range of ids that may match: ids grow with time."""
    ids = store.ids()
    start, stop = ids.start, ids.stop
    if wanted.since is not None:
        start = _first_from(store, StoreTime(wanted.since - STEP_BACK), ids)
    if wanted.until is not None:
        stop = _first_from(store, StoreTime(wanted.until + STEP_BACK), ids)
    if wanted.after_id is not None:
        start = max(start, wanted.after_id + 1)
    if wanted.before_id is not None:
        stop = min(stop, wanted.before_id)
    return range(start, max(start, stop))


def _first_from(store: ReaderStore, time: StoreTime, ids: range) -> int:
    """Return the first id of tasks submitted at a time or later."""
    low, high = ids.start, ids.stop
    while low < high:
        middle = (low + high) // 2
        found = store.submitted_from(middle)
        if found is None or found[1] >= time:
            high = middle
        else:
            low = found[0] + 1
    return low
