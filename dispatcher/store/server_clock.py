"""The store time of a shared store: the clock of its server, whatever its hosts' clocks show."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from dispatcher.calendar import Calendar, Setting
from dispatcher.store.engine import Engine
from dispatcher.times import HOST_CLOCK, HostClock, Instant, StoreTime

#: Milliseconds; a larger difference of the host's clock from the known one, or of the server's from
#: this host's boot clock, is a step.
STEP: Final = 1_000

#: Seconds; a reading that took longer proves nothing about the host's clock.
TOGETHER: Final = 0.5

#: Milliseconds a second by which two clocks drift apart, at most.
DRIFT: Final = 1.0


class Reading(Struct, frozen=True):
    """What a server's clock showed at the beginning of a transaction."""

    time: StoreTime
    took: float
    """Seconds until the answer."""
    at: Instant
    """When the answer came."""

    @property
    def least(self) -> float:
        """The least that the server's clock is ahead of the boot clock, in ms.

        The server read its clock at some time until the answer, however long that took.
        """
        return self.time - self.at * 1000

    @property
    def most(self) -> float:
        """The most that it is ahead."""
        return self.least + self.took * 1000

    def replaces(self, known: "Reading") -> bool:
        """Return whether it shows as much as an earlier one, which grew worse by the drift."""
        drifted_ms = (self.at - known.at) * DRIFT
        return self.took <= max(TOGETHER, known.took + drifted_ms / 1000)


class ServerClock:
    """Follows the server's clock; the host's is compared with it for dates alone.

    If the server's clock is set, leases and takeovers are wrong by the step. The boot clock, which
    nobody can set, shows that.
    """

    def __init__(self, reading: Callable[[], Reading], host: HostClock = HOST_CLOCK) -> None:
        self._reading = reading
        self._host = host
        self._ahead_ms = 0
        """How far the host's clock is ahead, as far as dates are concerned."""
        self._known: Reading | None = None
        """The one that shows best by how much the server's clock is ahead of the boot clock, before
        any step that was not accepted."""
        self._host_ms: float | None = None
        """The host's clock minus the boot clock, as last seen."""
        self._stepped_ms = 0

    def begin(self, engine: Engine, *, write: bool) -> StoreTime:  # noqa: ARG002 - as `Clock`
        read = self._reading()
        self._compare(read)
        self._host_ms = self._ahead_of_boot()
        if self._host_ms is not None and read.took <= TOGETHER:
            # At the reading: it may be some time ago, as a new session is examined first.
            ahead_ms = round(self._host_ms + read.at * 1000) - read.time
            if abs(ahead_ms - self._ahead_ms) > STEP:
                self._ahead_ms = ahead_ms
        return read.time

    def watch(self, engine: Engine) -> Setting:  # noqa: ARG002 - as `Clock`
        """Return how far the host's clock is ahead; nothing is recorded."""
        return Setting(self._reading().time, self._ahead_ms, 0)

    def was_set(self) -> bool:
        known, found = self._host_ms, self._ahead_of_boot()
        return known is not None and found is not None and abs(found - known) > STEP

    def _ahead_of_boot(self) -> float | None:
        """Return the host's clock minus the boot clock; None: they could not be read together."""
        read = self._host.both()
        return None if read is None else read[0] - read[1] * 1000

    def calendar(self, engine: Engine) -> Calendar:  # noqa: ARG002 - as `Clock`
        return Calendar(self._reading().time, self._ahead_ms)

    def step(self) -> int:
        """Return by how many ms the server's clock was set since `accept_step`; 0: by none."""
        return self._stepped_ms

    def accept_step(self) -> None:
        """Count from the clock as it is now."""
        self._known, self._stepped_ms = self._reading(), 0

    def _compare(self, read: Reading) -> None:
        """Compare the server's clock with the boot clock: a step is what no reading explains."""
        known = read if self._known is None else self._known
        if read.least > known.most + STEP:
            self._stepped_ms = round(read.least - known.most)
        elif read.most < known.least - STEP:
            self._stepped_ms = round(read.most - known.least)
        else:
            self._stepped_ms = 0
            if read.replaces(known):  # no clock runs exactly as fast as another
                self._known = read
