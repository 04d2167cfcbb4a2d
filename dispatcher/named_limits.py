"""Named limits: what a configuration allows of each, and whether one is closed. Pure."""

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from dispatcher.complaints import UNREADABLE
from dispatcher.quantities import durations
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import StoreTime

#: The most of a limit that a task takes, or that may run or start.
MOST: Final = 1_000_000

#: How much of one limit a task takes.
Units = Annotated[int, Meta(ge=1, le=MOST)]

#: The most starts of a rate: a claim adds them up.
MOST_STARTS: Final = 10_000

#: The longest window of a rate.
LONGEST_WINDOW: Final = durations.parse("30d")

_RATE: Final = re.compile(r"\s*([0-9]{1,7})\s*/\s*(\S.*)")

_BREAKER: Final = re.compile(r"\s*([0-9]{1,7})\s+in\s+(\S.*)")

_QUEUE: Final = "queue:"

#: What a task takes that takes none.
NO_LIMITS: Final[Mapping[str, int]] = MappingProxyType({})


def of_queue(queue: str) -> str:
    """Return the name of a queue's own limit, which no configured one can have."""
    return _QUEUE + queue


def queue_of(limit: str) -> str | None:
    """Return the queue whose own limit this is; None: it is a named one."""
    return limit.removeprefix(_QUEUE) if limit.startswith(_QUEUE) else None


class Rate(Struct, frozen=True):
    """At most so many starts in any window of this length."""

    many: int
    window_ms: Milliseconds

    def __str__(self) -> str:
        return f"{self.many}/{self.window_ms}"


def parse_rate(text: str) -> Rate:
    """Return a rate such as "10/1m". Raises ValueError with the remedy."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f'{text!r} is not a rate; write for example "10/1m": 10 in a minute')
    many, window_ms = int(found[1]), durations.parse(found[2])
    if not many:
        raise ValueError(
            "a rate of 0 lets nothing start; raise it, or leave it out and close the limit:"
            " dispatcher limit close"
        )
    if many > MOST_STARTS:
        raise ValueError(f"{many} is more than {MOST_STARTS}; write fewer in a shorter time")
    if not 0 < window_ms <= LONGEST_WINDOW:
        raise ValueError(f"{window_ms} is not from 1ms to {LONGEST_WINDOW}; write another time")
    return Rate(many, window_ms)


class Breaker(Struct, frozen=True, kw_only=True):
    """So many failures in a time without a success close a queue, for a time at first."""

    many: int
    window_ms: Milliseconds
    cooldown_ms: Milliseconds
    """Until a probe."""

    def __str__(self) -> str:
        return f"{self.many} in {self.window_ms}"


#: Milliseconds from when a breaker closes to its probe, unless it is configured.
COOLDOWN: Final = durations.parse("1m")


def parse_breaker(text: str, cooldown_ms: Milliseconds | None = None) -> Breaker:
    """Return a breaker such as "5 in 10m". Raises ValueError with the remedy."""
    found = _BREAKER.fullmatch(text)
    if found is None:
        raise ValueError(
            f'{text!r} is not a breaker; write for example "5 in 10m": 5 failures in ten minutes'
        )
    many, window_ms = int(found[1]), durations.parse(found[2])
    if not 0 < many <= MOST_STARTS:
        raise ValueError(f"{many} failures are not from 1 to {MOST_STARTS}; write another number")
    if not 0 < window_ms <= LONGEST_WINDOW:
        raise ValueError(f"{window_ms} is not from 1ms to {LONGEST_WINDOW}; write another time")
    return Breaker(many=many, window_ms=window_ms, cooldown_ms=cooldown_ms or COOLDOWN)


class Rule(Struct, frozen=True, kw_only=True):
    """What a configuration allows of one limit; without either number it can only be closed."""

    concurrency: int | None = None
    rate: Rate | None = None
    breaker: Breaker | None = None
    """Of a queue."""

    def __str__(self) -> str:
        running = [] if self.concurrency is None else [f"{self.concurrency} at once"]
        rate = [] if self.rate is None else [str(self.rate)]
        breaker = [] if self.breaker is None else [f"breaker {self.breaker}"]
        return ", ".join([*running, *rate, *breaker]) or "only closed"

    @property
    def most(self) -> int | None:
        """How much of it one task may take at most; None: any number."""
        rate = None if self.rate is None else self.rate.many
        return min((one for one in (self.concurrency, rate) if one is not None), default=None)


#: Returns what a task takes, from the JSON of its column. Raises one of `UNREADABLE`.
units_from = lru_cache(maxsize=256)(msgspec.json.Decoder(dict[str, Units]).decode)


def takes_from(text: str | None) -> Mapping[str, int]:
    """Return what a task takes; nothing for damage, for which its claim holds it."""
    try:
        return units_from(text) if text else {}
    except (*UNREADABLE, TypeError):
        return {}


#: What a configuration allows that has no limits.
NO_RULES: Final[Mapping[str, Rule]] = MappingProxyType({})


class Closing(Struct, frozen=True, kw_only=True):
    """A row of `limits`: a limit, and whether it is closed."""

    name: str
    closed_at: StoreTime | None = None
    """Since when it is closed; None: it is open."""
    closed_until: StoreTime | None = None
    """None: until somebody opens it."""
    closed_reason: str | None = None
    closed_by: str | None = None
    """See `events.Actor`."""
    probe: str | None = None
    """If a breaker closed it: the uid of the run that may open it; "": there is none yet."""
    counted_from: StoreTime | None = None
    """From when a breaker counts failures, if somebody opened it."""

    def is_closed(self, now: StoreTime) -> bool:
        """Return whether it lets nothing through, but perhaps a probe."""
        if self.closed_at is None:
            return False
        return self.probe is not None or self.closed_until is None or self.closed_until > now

    def ends_at(self, now: StoreTime) -> StoreTime | None:
        """Return when it opens, or a probe may start; None: at no known time."""
        ends = self.closed_until is not None and self.closed_until > now
        return self.closed_until if ends else None

    def is_over(self, now: StoreTime) -> bool:
        """Return whether its time has come to open by itself."""
        return self.closed_at is not None and not self.is_closed(now)


class Given(NamedTuple):
    """How many free concurrency keys one call has given to tasks."""

    many: int
    more: bool = False
    """Whether there may be more at once."""
    busy: bool = False
    """Whether others hold what is needed: call again after a moment."""
