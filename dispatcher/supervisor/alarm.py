"""Alarms: when a part of the supervisor is due. The next tick is at the earliest one to come."""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.times import LONG_AGO, Instant


@dataclass(slots=True)
class Alarm:
    """An instant at which something is due; a new alarm is due at once."""

    at: Instant = LONG_AGO

    def set(self, at: float) -> None:
        self.at = Instant(at)

    def is_due(self, at: Instant) -> bool:
        return at >= self.at
