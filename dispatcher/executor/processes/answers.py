"""The three answers of a look at a run's tree (protocol 2.10)."""

from msgspec import Struct

from dispatcher.executor.system.procfs import Process


class Present(Struct, frozen=True):
    """These processes of the run live, and maybe others: the walk may not be over."""

    processes: list[Process]


class Absent(Struct, frozen=True):
    """The run has no process left: proved, not merely not seen."""


class Unknown(Struct, frozen=True):
    """Nothing of the run was seen, and that proves nothing."""

    why: str


Look = Present | Absent | Unknown

ABSENT = Absent()


def processes_of(seen: Look) -> list[Process]:
    """Return the processes that a look has found; none for the other answers."""
    return seen.processes if isinstance(seen, Present) else []
