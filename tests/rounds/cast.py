"""The workers of a round: mixed, as a seed deals them."""

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ACTOR = str(Path(__file__).with_name("actor.py"))

#: Exit codes, and how often they come.
_CODES = (0, 0, 0, 3, 75)


@dataclass(frozen=True)
class Part:
    """A worker's behaviour, and how its task is submitted."""

    manner: str
    flags: tuple[str, ...] = ()
    seconds: tuple[float, float] = (0.1, 1.8)
    settings: tuple[tuple[str, object], ...] = ()
    codes: tuple[int, ...] = _CODES


PARTS = (
    Part("sleeps"),
    Part("ends at once", seconds=(0.0, 0.0)),
    Part("ignores TERM", ("--ignore-term",)),
    Part("escapes", ("--escape",)),
    Part("escapes and ignores TERM", ("--escape", "--ignore-term")),
    Part("floods", ("--flood",), (0.0, 0.5)),
    Part(
        "beats",
        ("--beat",),
        settings=(("liveness", "worker"), ("lease_ttl", "1s"), ("max_attempts", 5)),
    ),
    Part(
        "never ends",
        ("--escape", "--ignore-term"),
        (1000.0, 1000.0),
        (("run_timeout", "1s"), ("max_attempts", 1)),
        codes=(0,),
    ),
)

#: Tasks of a round, at least and at most.
TASKS = (20, 40)


def deal(chance: random.Random, directory: Path, token: str) -> list[Mapping[str, object]]:
    """Return the tasks of a round, as `submit --from` reads them; every part is in it."""
    count = chance.randint(*TASKS)
    parts = [*PARTS, *chance.choices(PARTS, k=count - len(PARTS))]
    chance.shuffle(parts)
    return [_task(chance, part, directory, f"{token}-{n}") for n, part in enumerate(parts, 1)]


def _task(chance: random.Random, part: Part, directory: Path, name: str) -> Mapping[str, object]:
    seconds = f"{chance.uniform(*part.seconds):.2f}"
    code = str(chance.choice(part.codes))
    command = (sys.executable, "-I", "-S", _ACTOR, str(directory), name)
    return {
        "max_attempts": 3,
        **dict(part.settings),
        "command": [*command, "--seconds", seconds, "--code", code, *part.flags],
        "label": [f"manner={part.manner.replace(' ', '-')}"],
    }
