"""What a client reads, with or without a running daemon."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dispatcher.calendar import Calendar
from dispatcher.config.config import Config
from dispatcher.dependency import Dependency
from dispatcher.handover import Handover
from dispatcher.model import FINISHED, Outcome, Run, Task, TaskFilter, TaskState
from dispatcher.operations import tasks as operations
from dispatcher.store.api import Store
from dispatcher.store.search import each_task
from dispatcher.times import StoreTime

if TYPE_CHECKING:
    from dispatcher.nodes import NodeView
    from dispatcher.obstacles import Standing
    from dispatcher.operations.answers import Waiting
    from dispatcher.operations.schedules import ScheduleView
    from dispatcher.outlook import Outlook
    from dispatcher.overview import Status


class Reader:
    """The reading half of a `Client`."""

    config: Config
    store: Store

    def task(self, task_id: int, *, payload: bool = True) -> Task | None:
        """Return a task, without its payload if that is not needed; None if the id is unknown."""
        with self.store.snapshot():
            return self.store.task(task_id, payload=payload)

    def runs(self, task_id: int) -> list[Run]:
        """Return a task's runs, oldest first, with the present paths of their outputs."""
        return operations.runs(self.store, self.config, task_id)

    def parents(self, *task_ids: int, limit: int = 1000) -> list[Dependency]:
        """Return at most `limit` dependencies of tasks on their parents, lowest ids first."""
        with self.store.snapshot():
            return self.store.parents(task_ids, limit=limit)

    def children(self, task_id: int, *, limit: int = 1000) -> list[Dependency]:
        """Return at most `limit` dependencies of other tasks on this one, lowest ids first."""
        with self.store.snapshot():
            return self.store.children(task_id, limit=limit)

    def schedules(self) -> list[ScheduleView]:
        """Return the schedules of the configuration and of the store, by name."""
        from dispatcher.operations import schedules  # noqa: PLC0415 - few have schedules

        return schedules.views(self.store, self.config)

    def prunable(self, *, older_than_ms: int, states: Collection[TaskState] = FINISHED) -> int:
        """Return how many tasks in these states finished at least so long ago."""
        with self.store.snapshot() as now:
            return self.store.prunable(before=StoreTime(now - older_than_ms), states=states)

    def outlook(self, task_id: int) -> Outlook | None:
        """Return the outcome of a run that is ending and its task's next state; None: none is."""
        from dispatcher.operations import intents  # noqa: PLC0415 - no submit needs it

        with self.store.snapshot() as now:
            return intents.outlook_of(self.store, task_id, now)

    def handover(self, task_id: int) -> Handover | None:
        """Return what a task's last runs left for the next one; None: nothing."""
        with self.store.snapshot():
            return self.store.handovers([task_id]).get(task_id)

    def inbox(self, *, queue: str | None = None, limit: int = 50) -> list[Waiting]:
        """Return at most `limit` held tasks with what their last runs left: questions first."""
        from dispatcher.operations import answers  # noqa: PLC0415 - no submit needs it

        return answers.inbox(self.store, queue=queue, limit=limit)

    def counts(self) -> Mapping[str, Mapping[TaskState, int]]:
        """Return how many tasks are in each state, by queue."""
        with self.store.snapshot():
            return self.store.counts()

    def queues(self) -> frozenset[str]:
        """Return the queues of all tasks, and those that the configuration names."""
        return operations.queues(self.store, self.config)

    def calendar(self) -> Calendar:
        """Return what turns the store's times into dates."""
        with self.store.snapshot():
            return self.store.calendar()

    def tasks(self, wanted: TaskFilter | None = None) -> list[Task]:
        """Return the tasks that match a filter, in its order [default: newest first]."""
        return list(self.each_task(wanted or TaskFilter()))

    def each_task(self, wanted: TaskFilter) -> Iterator[Task]:
        """Yield the same, reading the table part by part."""
        return each_task(self.store, wanted)

    def status(self) -> Status:
        """Return the state of node, queues and tasks; it counts every task."""
        from dispatcher import overview  # noqa: PLC0415 - no submit needs it

        return overview.status(self.store, self.config)

    def standing(self) -> Standing:
        """Return the state of this node, with a running daemon's report about itself."""
        from dispatcher import overview  # noqa: PLC0415 - no submit needs it

        return overview.standing(self.store, self.config)

    def nodes(self) -> Sequence[NodeView]:
        """Return the nodes of the store, by hostname."""
        return self.standing().nodes

    def outcomes(self) -> Mapping[Outcome, int]:
        """Return the number of closed runs of each outcome."""
        with self.store.snapshot():
            return self.store.outcomes()
