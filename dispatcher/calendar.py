"""Store times as dates of the host's clock, and back: only for people."""

import math

from msgspec import Struct

from dispatcher.times import StoreTime, WallTime, iso

#: Milliseconds.
HOUR = 3_600_000

#: Effect of a step of the host's clock.
UNCHANGED = "no lease, delay or time-out changed for it, except what fell due since the boot"


class Setting(Struct, frozen=True):
    """The host's clock from a store time on."""

    since: StoreTime
    ahead_ms: int
    """How far the host's clock was ahead of store time; negative: behind it."""
    step_ms: int
    """By how much it was set then; 0: a boot, or the store's creation."""


class Calendar(Struct, frozen=True):
    """Store times as dates, and back."""

    now: StoreTime
    ahead_ms: int
    """How far the host's clock is ahead of store time now."""
    settings: tuple[Setting, ...] = ()
    """The recorded ones, oldest first."""

    def date(self, moment: StoreTime) -> WallTime:
        """Return what the host's clock showed at a time, or will show unless it is set."""
        if moment > self.now or not self.settings:
            return WallTime(moment + self.ahead_ms)
        held = [one for one in self.settings if one.since <= moment] or self.settings[:1]
        return WallTime(moment + held[-1].ahead_ms)

    def moment(self, date: WallTime) -> StoreTime:
        """Return the last store time at which the host's clock showed a date, or skipped it."""
        until, moment = math.inf, float(date - self.ahead_ms)
        for one in reversed(self.settings):
            moment = min(date - one.ahead_ms, until)
            if moment >= one.since:
                break
            until = one.since
        return StoreTime(round(moment))

    def iso(self, moment: StoreTime) -> str:
        """Return the date of a time as ISO 8601 in UTC with milliseconds."""
        return iso(self.date(moment))

    @property
    def is_fresh(self) -> bool:
        """Whether a boot, or a step of more than an hour, happened within the last hour.

        The clock may then be set again. The store's creation does not count.
        """
        return any(
            self.now - one.since < HOUR and (not one.step_ms or abs(one.step_ms) > HOUR)
            for one in self.settings[1:]
        )

    def last_step(self, *, within_ms: int) -> Setting | None:
        """Return the last step of the host's clock within that time."""
        steps = [one for one in self.settings if one.step_ms]
        return steps[-1] if steps and self.now - steps[-1].since <= within_ms else None
