"""What stands in for the parts that a store is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dispatcher.calendar import Calendar
from dispatcher.hooks import KINDS, ORIGIN, STATES, Happened
from dispatcher.model import TaskState
from dispatcher.new_task import NewTask
from tests.contract.helpers import new_task


@dataclass
class AllHooks:
    """Hooks of everything: each event gets a task, and is kept."""

    states: frozenset[TaskState] = frozenset(STATES.values())
    kinds: frozenset[str] = frozenset(KINDS.values())
    seen: list[Happened] = field(default_factory=list)

    def tasks(self, happened: Sequence[Happened], calendar: Calendar) -> list[NewTask]:
        self.seen += happened
        return [
            new_task(queue="hooks", payload=str(one.id), origin=f"{ORIGIN}{one.hook}")
            for one in happened
        ]
