"""The outcome of a run that is ending, and its task's next state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dispatcher.execution import OpenRun
from dispatcher.model import Intent, Outcome, Task, TaskState
from dispatcher.times import StoreTime

if TYPE_CHECKING:
    import random

    from dispatcher.execution import Settlement
    from dispatcher.policy import RetryPolicy


#: Why a task is not released that has used up all its attempts.
NO_ATTEMPT = "no attempt is left"


@dataclass(frozen=True, slots=True)
class Outlook:
    """The outcome of a run that is ending, and its task's next state, as far as anybody knows."""

    outcome: Outcome
    state: TaskState
    reason: str
    """Why the task goes there."""
    declared: bool = False
    """Whether its worker declared the outcome."""
    not_released: str | None = None
    """Why the task could not be released from there; None: it could be."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an operator asked of a task, and what becomes of it."""

    intent: Intent
    task_id: int
    was: TaskState | None
    """Before; None: there is no such task."""
    task: Task | None
    """Now."""
    ahead: Outlook | None
    """What is ahead of it if its run is ending."""


def outlook(
    run: OpenRun, retry: RetryPolicy, *, now: StoreTime, rng: random.Random
) -> Outlook | None:
    """Return what would be settled if the run were gone now; None: nothing ends it yet."""
    if not run.is_ending:
        return None
    settled = _settled(run, retry, now, rng)
    released = _settled(replace(run, intent=Intent.RELEASE), retry, now, rng)
    not_released = None
    if released.state is not TaskState.READY:
        left = released.attempts_used < run.max_attempts
        not_released = released.reason if left else NO_ATTEMPT
    declared = run.declared is not None
    return Outlook(settled.outcome, settled.state, settled.reason, declared, not_released)


def _settled(run: OpenRun, retry: RetryPolicy, now: StoreTime, rng: random.Random) -> Settlement:
    from dispatcher import policy  # noqa: PLC0415 - no submit needs it

    return policy.settle(run, None, retry, now=now, ended_at=now, rng=rng)
