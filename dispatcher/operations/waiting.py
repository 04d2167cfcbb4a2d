"""Waits until tasks are done: finished, or held for a person."""

from collections.abc import Callable, Iterable, Iterator

from dispatcher.model import FINISHED, Task, TaskFilter, TaskState
from dispatcher.selection import merged
from dispatcher.store.api import ReaderStore
from dispatcher.times import NEVER, Instant, instant, sleep

#: Seconds between two looks at the store.
POLL = 0.5

#: The longest pause between two looks: one during which the process was stopped took no effort.
MOST_POLL = 10.0

#: A look that takes long is followed by this many times its duration: a tenth of a processor.
_IDLE = 9

#: Tasks read in one snapshot: about 10 ms.
_BATCH = 2000

#: Above every id.
_MOST_ID = 2**63 - 1

#: Ids that are read as one range, with those between them, where they are no further apart.
_GAP = 8


def is_done(task: Task | None) -> bool:
    """Return whether a task is finished, held or deleted (None): it does nothing by itself."""
    return task is None or _is_done(task.state)


def _is_done(state: TaskState | None) -> bool:
    return state is None or state in FINISHED or state is TaskState.HELD


def deadline(timeout_ms: int | None) -> Instant:
    """Return the instant at which a wait is over; None: never."""
    return NEVER if timeout_ms is None else Instant(instant() + timeout_ms / 1000)


class AwaitedTasks:
    """Tasks to wait for, and the states of those that are done: by id, None for a deleted one."""

    def __init__(self, store: ReaderStore, task_ids: Iterable[int]) -> None:
        self.states: dict[int, TaskState | None] = {}
        self._store = store
        self._ids = list(dict.fromkeys(task_ids))

    def wait(
        self, *, any_one: bool = False, until: Instant = NEVER, report: Callable[..., object] = bool
    ) -> None:
        """Wait until all are done, or any one; no longer than `until`, with a last look at all.

        A task that is done may be released or retried: such tasks are read again at the end.
        `report` is called with the number of those that are done.
        """
        wanted = self._ids
        while wanted:
            began = instant()
            if is_last := began >= until:
                wanted = [*self._open(), *self._changeable()]
            for _ in self._look(wanted):
                report(len(self.states))
                if any_one and self.states:
                    return
            if is_last:
                return
            looked, wanted = wanted, self._open()
            if wanted:
                patience = min(MOST_POLL, max(POLL, _IDLE * (instant() - began)))
                sleep(max(0.0, min(patience, until - instant())))
            elif not set(looked).issuperset(changeable := self._changeable()):
                wanted = changeable

    def _look(self, task_ids: Iterable[int]) -> Iterator[None]:
        """Read the states of tasks, with a turn for the caller after each snapshot."""
        for read in _read(self._store, task_ids):
            for task_id, state in read.items():
                if not _is_done(state):
                    self.states.pop(task_id, None)
                elif state is not None or self.states.get(task_id) not in FINISHED:
                    self.states[task_id] = state
            yield

    def _open(self) -> list[int]:
        return [one for one in self._ids if one not in self.states]

    def _changeable(self) -> list[int]:
        """Return the tasks that are done now, but may run again."""
        final = (TaskState.SUCCEEDED, None)
        return [one for one, state in self.states.items() if state not in final]


def are_done(store: ReaderStore, task_ids: Iterable[int]) -> bool:
    return all(_is_done(state) for read in _read(store, task_ids) for state in read.values())


def missing(store: ReaderStore, task_ids: Iterable[int]) -> int | None:
    """Return the first id that no task has; None if each has one."""
    found = (one for read in _read(store, task_ids) for one, state in read.items() if not state)
    return next(found, None)


def _read(store: ReaderStore, task_ids: Iterable[int]) -> Iterator[dict[int, TaskState | None]]:
    """Yield the states of tasks, in snapshots of bounded length; never a payload."""
    ids = sorted(set(task_ids))
    for start in range(0, len(ids), _BATCH):
        read: dict[int, TaskState | None] = dict.fromkeys(ids[start : start + _BATCH])
        with store.snapshot():
            for span in merged([range(one, min(one + _GAP, _MOST_ID)) for one in read]):
                wanted = TaskFilter(after_id=span.start - 1, before_id=span.stop, limit=len(span))
                read |= {one.id: one.state for one in store.matching(wanted) if one.id in read}
        yield read
