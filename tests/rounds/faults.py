"""The faults of a round: SIGKILL, or SIGSTOP and SIGCONT, for one of its processes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Target = Literal["leader", "grandchild", "daemon", "executor", "both"]

_TARGETS: tuple[Target, ...] = ("leader", "grandchild", "daemon", "executor", "both")

#: Seconds that somebody stands still, at least and at most.
STOPPED = (0.5, 4.0)

#: Seconds from the first worker's birth to a fault, at most.
LATEST = 2.5

#: Seconds until somebody starts a killed daemon again, at most: a service manager, an operator.
ABSENT = 1.5


@dataclass(frozen=True)
class Fault:
    """One of them. `seconds`: standing still; of a killed daemon: until its successor starts."""

    target: Target
    at: float
    kills: bool
    seconds: float

    def __str__(self) -> str:
        how = "killed" if self.kills else f"stopped for {self.seconds:.1f} s"
        return f"{self.target} {how} at {self.at:.1f} s"


def deal(chance: random.Random) -> Iterator[Fault]:
    """Yield the one or two faults of a round."""
    for _ in range(chance.randint(1, 2)):
        kills = chance.random() < 0.6
        seconds = chance.uniform(0.0, ABSENT) if kills else chance.uniform(*STOPPED)
        yield Fault(chance.choice(_TARGETS), chance.uniform(0.0, LATEST), kills, seconds)
