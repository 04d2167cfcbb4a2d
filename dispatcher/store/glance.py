"""The tasks that a person looks for first: what runs, what needs a person, what waits, what ended.

A few bounded queries, however many tasks there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from operator import itemgetter
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from dispatcher.model import Run, Task, TaskFilter, TaskState
from dispatcher.store.api import ReaderStore
from dispatcher.store.search import each_task, last_run

#: The states of each group, in the order in which a person looks, and how many tasks of each group
#: are shown unless a limit is given.
GROUPS: Final[tuple[tuple[tuple[TaskState, ...], int], ...]] = (
    ((TaskState.RUNNING,), 100),
    ((TaskState.HELD,), 20),
    ((TaskState.FAILED,), 20),
    ((TaskState.READY, TaskState.SCHEDULED, TaskState.WAITING), 10),
    ((TaskState.SUCCEEDED, TaskState.CANCELLED), 10),
)

#: Tasks in the longest glance without a limit.
MOST: Final = 160

#: The largest limit: a glance is one snapshot.
MOST_AT_ONCE: Final = 1000

#: The newest matches that a search sorts into groups.
SEARCHED: Final = 1000

#: Ready tasks before one that are counted.
MOST_BEFORE: Final = 1000

#: Queues whose ready or held tasks are looked for.
MOST_QUEUES: Final = 50


class Seen(Struct, frozen=True, kw_only=True):
    """A task at a glance."""

    task: Task
    run: Run | None
    """Its last run, without the end of its output."""
    before: int | None
    """How many tasks of its queue precede a ready task, counted to `MOST_BEFORE`."""


class Glance(Struct, frozen=True, kw_only=True):
    """Tasks in the order in which a person looks, and how many match."""

    seen: Sequence[Seen]
    counts: Mapping[TaskState, int]
    is_all: bool = True
    """Whether the counts are of all matches, not of the `SEARCHED` newest."""


def glance(
    store: ReaderStore,
    *,
    states: Iterable[TaskState] | None = None,
    queue: str | None = None,
    limit: int | None = None,
    room: int = MOST,
) -> Glance:
    """Return the first tasks of each group, by indexes, in one snapshot.

    `limit`: maximum of all; None: the maximum of each in `GROUPS`. `room`: maximum even then.
    """
    chosen = frozenset(TaskState if states is None else states)
    with store.snapshot():
        by_queue = _chosen(store.counts(), chosen, queue)
        counts = _summed(by_queue)
        shares = _shares(counts, limit, room)
        tasks = [
            task
            for (group, _), share in zip(GROUPS, shares, strict=True)
            for task in _first_of(store, filter(counts.get, group), by_queue, queue, share)
        ]
        seen = [_seen(store, task) for task in tasks]
    return Glance(seen=sorted(seen, key=_place), counts=counts)


def search(
    store: ReaderStore, wanted: TaskFilter, *, limit: int | None = None, room: int = MOST
) -> Glance:
    """Return the same of a filter's matches, of which it reads the newest."""
    found = list(each_task(store, replace(wanted, limit=SEARCHED + 1), payload=False))
    is_all, found = len(found) <= SEARCHED, found[:SEARCHED]
    counts = {state: sum(task.state is state for task in found) for state in TaskState}
    shares = _shares(counts, limit, room)
    chosen: list[int] = []
    for (group, _), share in zip(GROUPS, shares, strict=True):
        of_group = [task for task in found if task.state in group]
        of_group.sort(key=lambda task: _nearness(task, -task.priority))
        chosen += [task.id for task in of_group[:share]]
    with store.snapshot():
        again = [task for one in chosen if (task := store.task(one, payload=False)) is not None]
        seen = [_seen(store, task) for task in again]
    return Glance(seen=sorted(seen, key=_place), counts=counts, is_all=is_all)


def _chosen(
    counts: Mapping[str, Mapping[TaskState, int]], states: frozenset[TaskState], queue: str | None
) -> Mapping[str, Mapping[TaskState, int]]:
    return {
        name: {state: tasks for state, tasks in of_queue.items() if state in states}
        for name, of_queue in counts.items()
        if queue in (None, name)
    }


def _summed(by_queue: Mapping[str, Mapping[TaskState, int]]) -> Mapping[TaskState, int]:
    return {state: sum(one.get(state, 0) for one in by_queue.values()) for state in TaskState}


def _shares(counts: Mapping[TaskState, int], limit: int | None, room: int) -> list[int]:
    """Return how many tasks of each group are shown: the groups take turns for the room."""
    there = [
        min(sum(counts[state] for state in group), most if limit is None else limit)
        for group, most in GROUPS
    ]
    room = min(sum(there), room if limit is None else min(limit, room))
    shares = [0] * len(there)
    turns = cycle(range(len(there)))
    while sum(shares) < room:
        group = next(turns)
        shares[group] += shares[group] < there[group]
    return shares


def _first_of(
    store: ReaderStore,
    states: Iterable[TaskState],
    by_queue: Mapping[str, Mapping[TaskState, int]],
    queue: str | None,
    share: int,
) -> list[Task]:
    """Return the first tasks in some states; queues take turns with their ready ones."""
    found: list[tuple[tuple[int, ...], Task]] = []
    for state in states if share else ():
        queues: Iterable[str | None] = [queue]
        if queue is None and state in (TaskState.READY, TaskState.HELD, TaskState.WAITING):
            with_some = (name for name, counts in by_queue.items() if counts.get(state))
            queues = islice(with_some, MOST_QUEUES)
        for name in queues:
            tasks = store.foremost(state, queue=name, limit=share)
            found += ((_nearness(task, place), task) for place, task in enumerate(tasks))
    found.sort(key=itemgetter(0))
    return [task for _, task in found[:share]]


def _seen(store: ReaderStore, task: Task) -> Seen:
    is_ready = task.state is TaskState.READY
    before = store.before(task, limit=MOST_BEFORE) if is_ready else None
    return Seen(task=task, run=last_run(store, task), before=before)


def _place(seen: Seen) -> tuple[int, ...]:
    """Return what a glance is sorted by."""
    (group,) = (n for n, (states, _) in enumerate(GROUPS) if seen.task.state in states)
    return group, *_nearness(seen.task, seen.before or 0)


def _nearness(task: Task, place: int) -> tuple[int, ...]:
    """Return what a group is sorted by; `place` is that of a ready task in its queue."""
    if task.state is TaskState.READY:
        return 0, place, task.id
    if task.state is TaskState.SCHEDULED:
        return 1, task.run_at, task.id
    if task.state is TaskState.WAITING:
        return 2, task.id
    if task.state is TaskState.RUNNING:
        return (task.id,)
    return -(task.finished_at or task.run_at), -task.id
