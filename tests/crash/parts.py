"""The parts of a play: tasks, each with its expected end."""

from dataclasses import dataclass
from typing import Protocol

from dispatcher.model import TaskState
from tests.crash.stage import Stage


@dataclass(frozen=True)
class Part:
    """One task: its name, final state, and outcomes without the orphaned runs."""

    name: str
    state: TaskState
    outcomes: str
    """A regular expression."""
    endless: bool = False
    """It runs until it is ended."""


class Play(Protocol):
    """Tasks, in the order of their ids, and what an operator does to them."""

    parts: tuple[Part, ...]

    def begin(self, stage: Stage) -> None:
        """Submit the tasks."""

    def operate(self, stage: Stage) -> bool:
        """Do what an operator would do now, before every turn; return whether the play goes on."""
