"""Predicts the outcome of an ending run and the next state of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dispatcher.execution import OpenRun
from dispatcher.model import Intent, Outcome, Run, Task, TaskState
from dispatcher.times import StoreTime

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from dispatcher.execution import Settlement


#: Why a task without attempts left is not released.
NO_ATTEMPT = "no attempt is left"


class Outlook(Struct, frozen=True):
    """The expected outcome of an ending run, and its task's next state."""

    outcome: Outcome
    state: TaskState
    reason: str
    """The reason of the next state."""
    declared: bool = False
    """Whether its worker declared the outcome."""
    not_released: str | None = None
    """Why the task could not be released from that state; None: it could."""


class IntentResult(Struct, frozen=True):
    """An operator's verb on a task, and its effect."""

    intent: Intent
    task_id: int
    was: TaskState | None
    """The state before; None: unknown task."""
    task: Task | None
    """The task after it, without its payload."""
    ahead: Outlook | None
    """What is expected if its run is ending."""
    is_run_missing: bool = False
    """Whether it runs without a row of its run, which somebody deleted."""


def is_run_missing(task: Task | None, runs: Iterable[Run]) -> bool:
    """Return whether a task runs without a row of its run; both are of one moment."""
    is_running = task is not None and task.state is TaskState.RUNNING
    return is_running and all(run.outcome is not None for run in runs)


def outlook(run: OpenRun, *, now: StoreTime, rng: random.Random) -> Outlook | None:
    """Return the expected settlement if the run were gone now; None: it is not ending."""
    if not run.is_ending:
        return None
    settled = _settled(run, now, rng)
    released = _settled(replace(run, intent=Intent.RELEASE), now, rng)
    not_released = None
    if released.state is not TaskState.READY:
        left = released.attempts_used < run.max_attempts
        not_released = released.reason if left else NO_ATTEMPT
    declared = run.declared is not None
    return Outlook(settled.outcome, settled.state, settled.reason, declared, not_released)


def _settled(run: OpenRun, now: StoreTime, rng: random.Random) -> Settlement:
    from dispatcher import policy  # noqa: PLC0415 - no submit needs it

    return policy.settle(run, None, now=now, ended_at=now, rng=rng)
