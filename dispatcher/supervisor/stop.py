"""How the daemon stops: at once, or after its runs."""

import enum
from dataclasses import dataclass

import structlog

from dispatcher.times import LONG_AGO, Instant

log = structlog.get_logger()

#: Seconds beyond the longest ending after which a drain leaves behind what does not end.
DRAIN_PATIENCE = 10.0


class Stop(enum.StrEnum):
    """What happens to the runs when the daemon stops."""

    LEAVE = "leave"
    """Claim no more and exit; workers live on."""
    DRAIN = "drain"
    """Claim no more, wait for the workers, then end those that are left."""
    AT_ONCE = "at_once"
    """End every worker at once."""


@dataclass(slots=True)
class Stopping:
    """The request to stop, if there was one."""

    how: Stop | None = None
    deadline: Instant = LONG_AGO
    """When to end the runs that are left, if they are to be ended."""

    def request(self, how: Stop, *, drain_timeout: float, runs: int, at: Instant) -> None:
        """Record and log a request. A second request ends the runs of a drain at once."""
        if self.how is not Stop.LEAVE:
            self.how = how if self.how is None else Stop.AT_ONCE
        timeout = drain_timeout if self.how is Stop.DRAIN else 0.0
        self.deadline = Instant(at + timeout)
        message = {
            Stop.LEAVE: "leaves at once; its runs go on",
            Stop.DRAIN: f"waits up to {timeout:g} s for its runs; a second signal ends them now",
            Stop.AT_ONCE: "ends its runs at once",
        }[self.how]
        log.info("daemon.stopping", how=self.how, runs=runs, timeout_s=timeout, message=message)

    def left(self, at: Instant) -> float | None:
        """Return the seconds until a drain ends the runs that are left; None: nothing drains."""
        return round(max(0.0, self.deadline - at), 3) if self.how is Stop.DRAIN else None

    @property
    def ends_runs(self) -> bool:
        """Whether runs are ended, at once or after the deadline."""
        return self.how in (Stop.DRAIN, Stop.AT_ONCE)
