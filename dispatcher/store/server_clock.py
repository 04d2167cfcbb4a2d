"""The store time of a shared store: the clock of its server, whatever its hosts' clocks show."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dispatcher.calendar import Calendar, Setting
from dispatcher.store.engine import Engine
from dispatcher.times import HOST_CLOCK, HostClock, StoreTime

#: Milliseconds; a larger difference of the host's clock from the known one is a step.
STEP: Final = 1_000

#: Seconds; a reading that took longer proves nothing about the host's clock.
TOGETHER: Final = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """What a server's clock showed at the beginning of a transaction."""

    time: StoreTime
    took: float
    """Seconds until the answer."""


class ServerClock:
    """Follows the server's clock; the host's is compared with it for dates alone."""

    def __init__(self, reading: Callable[[], Reading], host: HostClock = HOST_CLOCK) -> None:
        self._reading = reading
        self._host = host
        self._ahead_ms = 0
        """How far the host's clock is ahead, as far as dates are concerned."""

    def begin(self, engine: Engine, *, write: bool) -> StoreTime:  # noqa: ARG002 - as `Clock`
        read = self._reading()
        ahead_ms = self._host.wall() - read.time
        if abs(ahead_ms - self._ahead_ms) > STEP and read.took <= TOGETHER:
            self._ahead_ms = ahead_ms
        return read.time

    def watch(self, engine: Engine) -> Setting:  # noqa: ARG002 - as `Clock`
        """Return how far the host's clock is ahead; nothing is recorded."""
        return Setting(self._reading().time, self._ahead_ms, 0)

    def calendar(self, engine: Engine) -> Calendar:  # noqa: ARG002 - as `Clock`
        return Calendar(self._reading().time, self._ahead_ms)
