"""The base of every table of the configuration file, and the limits and types of its keys."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from dispatcher import execution
from dispatcher.complaints import NO_NAME
from dispatcher.quantities import durations
from dispatcher.quantities.durations import Milliseconds
from dispatcher.quantities.sizes import Bytes

#: The default of a key that `__post_init__` derives from other keys.
DERIVED = Milliseconds(-1)

#: A name of a queue or label: it can stand in a table, a file and a command line.
NAME = r"\A[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,99}\Z"

#: Labels of a node or a task, and bytes of the value of one.
MAX_LABELS = 64
MAX_LABEL = 255

#: The largest integer of a key: the store's columns are signed, and other programs read 32 bits.
MOST = execution.MOST

#: The shortest interval between two looks at the store: at 20 ms an idle loop uses about 3 % of a
#: CPU.
LEAST_INTERVAL = Milliseconds(20)

#: The shortest absence that may end runs: a daemon confirms itself four times in it, and its store
#: may be slow.
LEAST_ABSENCE = Milliseconds(1_000)

#: The same where the store is on a server: an answer of it may take 2 s.
LEAST_SHARED_ABSENCE = Milliseconds(2_000)

#: The shortest time between the end of a silent node's runs and their takeover: its executor may
#: give a daemon that comes back at the last moment 2 s to confirm them (protocol 1.10), and has a
#: second to kill and to find its processes.
LEAST_MARGIN = Milliseconds(3_000)

#: The shortest interval between two writes of the metrics' file.
LEAST_METRICS_INTERVAL = Milliseconds(1_000)

#: The smallest budget of a run's output: holes are punched in blocks.
LEAST_BUDGET = Bytes(64 << 10)

#: The shortest retention: `submit --wait` looks at its tasks twice a second.
LEAST_RETENTION = Milliseconds(1_000)

Second = Annotated[Milliseconds, Meta(examples=["1s"])]
TenSeconds = Annotated[Milliseconds, Meta(examples=["10s"])]
Minute = Annotated[Milliseconds, Meta(examples=["60s"])]
QuarterHour = Annotated[Milliseconds, Meta(examples=["15m"])]


def key_of(field: str) -> str:
    """Return a field's key in the file: `ttl` for `ttl_ms`."""
    return field.removesuffix("_ms")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename=key_of):
    """A table of the file. Impossible values raise ValueError, a line for each mistake."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if mistakes := list(self._mistakes()):
            raise ValueError("\n".join(mistakes))

    def _mistakes(self) -> Iterator[str]:
        """Yield each mistake: its key, a colon, what is wrong and the remedy."""
        yield from ()


def above_zero(section: Section, *fields: str) -> Iterator[str]:
    """Yield a mistake for each field that is 0 or less."""
    for field in fields:
        if getattr(section, field) <= 0:
            yield f"{key_of(field)}: must be above 0"


def at_least(least: int, section: Section, *fields: str) -> Iterator[str]:
    """Yield a mistake for each given field that is less."""
    for field in fields:
        if (given := getattr(section, field)) is not None and given < least:
            yield f"{key_of(field)}: {given} is less than {least}; raise it"


def label_mistakes(key: str, labels: Mapping[str, str]) -> Iterator[str]:
    """Yield the mistakes of the labels of a node, or of those that a task requires."""
    if len(labels) > MAX_LABELS:
        yield f"{key}: {len(labels)} labels are more than {MAX_LABELS}; leave some out"
    for name, value in labels.items():
        if not re.fullmatch(NAME, name):
            yield f"{key}: {name!r} {NO_NAME}"
        elif "\0" in value:
            yield f"{key}: {name} holds a NUL character, which no text of a store may; leave it out"
        elif (size := len(value.encode(errors="surrogatepass"))) > MAX_LABEL:
            yield f"{key}: {name}: {size} bytes are more than {MAX_LABEL}; shorten it"


def duration_or_never(text: str) -> Milliseconds | None:
    """Return a duration, None for "never". Raises ValueError with the remedy."""
    return None if text == "never" else durations.parse(text)
