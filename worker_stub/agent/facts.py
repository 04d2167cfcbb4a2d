"""What an event of an agent's stream tells, and how it is read from values of any type."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Characters of what an agent does, as its note has it.
MAX_DOING = 200

#: The largest cost, number of tokens, or time in seconds that is believed.
MAX_NUMBER = 10**12

#: Keys of a tool's input that tell best what it does, the best first.
_TELLING = (
    *("command", "file_path", "filePath", "path", "pattern", "query", "url", "description"),
    "prompt",
)

#: Words of an error that a provider's limit caused.
_LIMITED = re.compile(
    r"usage limit|rate.?limit|hit your limit|quota|\b429\b|too many requests|resource.?exhausted",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class ProviderLimit:
    """The provider lets nothing through, as yet."""

    until: float | None = None
    """Seconds since 1970; None: unknown, unless the text tells."""
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one event tells."""

    session: str | None = None
    """The session's id, by which the agent can resume it."""
    step: bool = False
    """Whether a step of the agent begins: a message of its model, or a tool."""
    doing: str | None = None
    """What it does now: work, after which no earlier end or limit holds."""
    said: str | None = None
    """What it says to people."""
    goes_on: bool = False
    """Whether `said` continues what it said before."""
    progress: float | None = None
    """The done part of its own list."""
    cost: float | None = None
    """Dollars of this run so far, or, if it `adds`, of a step."""
    tokens: int | None = None
    """Of this run so far, or of a step."""
    adds: bool = False
    limit: ProviderLimit | None = None
    refused: Sequence[str] = ()
    """Tools that it was not allowed to use."""
    error: str | None = None
    """An error that need not be the end."""
    succeeded: bool | None = None
    """Whether the agent ended well; None: it goes on."""


NOTHING = Facts()

Read = Callable[[Any], Facts]


def _not_resumed(_command: Sequence[str], _session: str, _told: str) -> list[str] | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An agent's command line."""

    program: str
    measured: str
    """The version whose stream was measured, or who documents it."""
    read: Callable[[bytes], Facts]
    """Reads a line of its output; whatever the line is, it raises nothing."""
    resumed: Callable[[Sequence[str], str, str], list[str] | None] = _not_resumed
    """Returns the command with which a session goes on; None: it does not know how.

    It is given what the agent is told, which is on its stdin, for those that do not read that.
    """
    is_told: bool = True
    """Whether it reads from stdin what is added to its prompt."""
    ends: bool = True
    """Whether its stream ends with an event, without which exit code 0 is no success."""
    exits: Mapping[int, str] = field(default_factory=dict)
    """What its exit codes mean."""


def json_line(read: Read) -> Callable[[bytes], Facts]:
    """Return the reader of a line that should be JSON: nothing is told by one that is not."""

    def parsed(line: bytes) -> Facts:
        if not line.lstrip().startswith(b"{"):
            return NOTHING
        try:
            event = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            return NOTHING
        return read(event)

    return parsed


def number(value: object) -> float | None:
    """Return a number of a sensible size, not negative; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= MAX_NUMBER else None


def whole(*values: object) -> int | None:
    """Return the sum of those that are numbers; None: none is."""
    numbers = [found for value in values if (found := number(value)) is not None]
    return int(sum(numbers)) if numbers else None


def text(value: object) -> str | None:
    """Return a text that is not empty."""
    return value if isinstance(value, str) and value.strip() else None


def line_of(value: str, most: int = MAX_DOING) -> str:
    """Return a text as one line that every store and terminal can keep."""
    shown = "".join(letter if letter.isprintable() else " " for letter in value[: most * 4])
    return " ".join(shown.split())[:most]


def tool(name: object, given: object) -> str:
    """Return what a tool does, from its name and its input."""
    known: Mapping[Any, Any] = given if isinstance(given, Mapping) else {}
    told = next((known[key] for key in _TELLING if text(known.get(key))), "")
    return line_of(f"{name}: {told}" if told else f"{name}")


def done(items: object) -> float | None:
    """Return which part of a list of things to do is done; None: it is no such list."""
    if not isinstance(items, list) or not items:
        return None
    return sum(map(_is_done, items)) / len(items)


def _is_done(item: object) -> bool:
    match item:
        case {"status": "completed"} | {"completed": True}:
            return True
    return False


def limit_in(error: str | None) -> ProviderLimit | None:
    """Return the limit of which an error tells; None: of none."""
    if error is None or not _LIMITED.search(error):
        return None
    return ProviderLimit(text=error)
