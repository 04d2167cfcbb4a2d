"""Which tasks an operator means: ids, ranges of ids, and a filter."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from dispatcher.model import FINISHED, Intent, TaskFilter, TaskState
from dispatcher.times import StoreTime

#: The states of tasks that an operator's verb changes; of running ones `release` changes those that
#: are going to be held. Any verb may change a running task whose run is ending.
CHANGES: Final[Mapping[Intent, frozenset[TaskState]]] = {
    Intent.CANCEL: frozenset(TaskState) - FINISHED,
    Intent.HOLD: frozenset(TaskState) - FINISHED - {TaskState.HELD},
    Intent.RELEASE: frozenset({TaskState.HELD, TaskState.WAITING, TaskState.RUNNING}),
    Intent.RETRY: frozenset({TaskState.FAILED, TaskState.CANCELLED, TaskState.HELD}),
}

#: Intents that end a run.
ENDS: Final = frozenset({Intent.CANCEL, Intent.HOLD})


class Match(NamedTuple):
    """A task that matches a filter."""

    id: int
    state: TaskState


class Selection(Struct, frozen=True, kw_only=True):
    """Tasks by id, by range of ids, and by a filter, which narrows both.

    Without ids and ranges: all tasks that match the filter.
    """

    ids: tuple[int, ...] = ()
    ranges: tuple[range, ...] = ()
    wanted: TaskFilter = field(default_factory=TaskFilter)
    """A filter without bounds of ids."""
    older_than_ms: int | None = None

    @property
    def is_of_ids(self) -> bool:
        """Whether it is a list of ids and nothing more: then each of them counts."""
        return not (self.ranges or self.is_filtered)

    @property
    def is_filtered(self) -> bool:
        return self.wanted != TaskFilter() or self.older_than_ms is not None

    def filter(self, usual: Collection[TaskState], *, now: StoreTime) -> TaskFilter:
        """Return its filter, with its age as a time, and `usual` states unless it has states."""
        states = self.wanted.states or frozenset(usual)
        age = self.older_than_ms
        until = self.wanted.until if age is None else StoreTime(now - age)
        return replace(self.wanted, states=states, until=until)

    def parts(self, wanted: TaskFilter) -> list[TaskFilter]:
        """Return a filter for each stretch of ids; together they match each task once."""
        spans = merged([*self.ranges, *(range(one, one + 1) for one in self.ids)])
        if not spans:
            return [wanted]
        return [replace(wanted, after_id=one.start - 1, before_id=one.stop) for one in spans]


def merged(spans: Sequence[range]) -> list[range]:
    """Return ranges that do not touch, in order, with the same numbers."""
    found: list[range] = []
    for one in sorted(spans, key=lambda span: span.start):
        if found and one.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, one.stop))
        else:
            found.append(one)
    return found
