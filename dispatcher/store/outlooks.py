"""What an operator's verb would make of a run that goes on, as its settlement will decide it."""

from msgspec.structs import replace

from dispatcher.execution import OpenRun
from dispatcher.model import Intent, Outcome, TaskState
from dispatcher.policy import next_state, verdict
from dispatcher.times import StoreTime


def outcome_of(run: OpenRun) -> Outcome:
    """Return the outcome of a run, as far as it is decided."""
    return verdict(run, None).outcome


def can_be_held(run: OpenRun, now: StoreTime) -> bool:
    """Return whether a run's task may still wait: its total time-out is not over."""
    held = replace(run, intent=Intent.HOLD)
    return next_state(held, now=now) is TaskState.HELD


def can_be_released(run: OpenRun, now: StoreTime) -> bool:
    """Return whether a run's task would be held at its settle, and ready if released."""
    held = next_state(run, now=now) is TaskState.HELD
    released = replace(run, intent=Intent.RELEASE)
    return held and next_state(released, now=now) is TaskState.READY
