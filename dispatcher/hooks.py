"""Hooks: what happens for which a task is submitted, and what the store reports of it."""

import enum
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from dispatcher.calendar import Calendar
from dispatcher.events import EventKind
from dispatcher.model import Outcome, TaskState
from dispatcher.new_task import NewTask
from dispatcher.times import StoreTime

#: Begins the origin of a hook's task; the hook's name follows.
ORIGIN: Final = "hook:"


class Hook(enum.StrEnum):
    """What may have a task: a closed list, explained in docs/operations.md."""

    FAILED = "failed"
    HELD = "held"
    SUCCEEDED = "succeeded"
    QUEUE_PAUSED = "queue_paused"
    LIMIT_CLOSED = "limit_closed"
    WORKER_UNKILLABLE = "worker_unkillable"
    NODE_PAUSED = "node_paused"


#: The state that a task moves to, for the hooks of moves.
STATES: Final[Mapping[Hook, TaskState]] = {
    Hook.FAILED: TaskState.FAILED,
    Hook.HELD: TaskState.HELD,
    Hook.SUCCEEDED: TaskState.SUCCEEDED,
}

#: The kind of the event, for the others.
KINDS: Final[Mapping[Hook, str]] = {
    Hook.QUEUE_PAUSED: EventKind.PAUSE.value,
    Hook.LIMIT_CLOSED: "limit_closed",
    Hook.WORKER_UNKILLABLE: EventKind.WORKER_UNKILLABLE.value,
    Hook.NODE_PAUSED: EventKind.NODE_PAUSED.value,
}

_BY_STATE: Final = {state: hook for hook, state in STATES.items()}
_BY_KIND: Final = {kind: hook for hook, kind in KINDS.items()}


class Happened(Struct, frozen=True, kw_only=True):
    """An event, with its task and the last run of that."""

    id: int
    kind: str
    at: StoreTime
    subject: str | None
    """The queue, limit or node; None: it is about the task."""
    who: str
    """See `events.Actor`."""
    before: TaskState | None
    after: TaskState | None
    event_reason: str | None
    task_id: int | None
    queue: str | None
    profile: str | None
    labels: Mapping[str, str]
    fence: int | None
    outcome: Outcome | None
    exit_code: int | None
    signal: int | None
    output_path: str | None
    hostname: str | None
    """Of the node that ran it, or that is the subject."""

    @property
    def hook(self) -> Hook | None:
        """The hook that it may have; None: none."""
        if (hook := _BY_KIND.get(self.kind)) is not None:
            return hook
        return None if self.after is None else _BY_STATE.get(self.after)


class Hooks(Protocol):
    """The hooks of a configuration, for a store."""

    @property
    def states(self) -> frozenset[TaskState]:
        """The states that are followed when tasks move to them."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of other events that are followed."""

    def tasks(self, happened: Sequence[Happened], calendar: Calendar) -> list[NewTask]:
        """Return the tasks to submit; never fail: a hook with a mistake has none."""
