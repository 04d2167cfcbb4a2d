"""Values of dependencies: tasks that wait for others, their parents."""

import enum

from msgspec import Struct


class ParentFailure(enum.StrEnum):
    """What becomes of a task one of whose parents, which must succeed, failed or was cancelled."""

    HOLD = "hold"
    CANCEL = "cancel"
    RUN = "run"


class DependencyState(enum.StrEnum):
    """Whether a task still waits for a parent: it has not finished, it did well, or it did not."""

    OPEN = "open"
    MET = "met"
    BROKEN = "broken"


class Dependency(Struct, frozen=True, kw_only=True):
    """One task waits for another, its parent, or has waited for it."""

    task_id: int
    parent_id: int
    any_outcome: bool
    """Whether the parent need only finish, not succeed."""
    state: DependencyState
    other: str | None
    """The state of the parent, or of the child: of the one that was asked for. None: deleted."""
    other_reason: str | None


class TaskKey(Struct, frozen=True):
    """A task as its submitter names it: by its queue and its key there."""

    queue: str
    key: str

    def __str__(self) -> str:
        return f"the task with key {self.key!r} in queue {self.queue}"
