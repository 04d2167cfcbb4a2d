"""Schedules: tasks submitted at the times of a cron line, and what the store keeps of each."""

import enum
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct

from dispatcher.calendar import Calendar
from dispatcher.new_task import NewTask
from dispatcher.times import StoreTime, WallTime

#: Begins the origin of a schedule's task; the schedule's name follows.
ORIGIN: Final = "schedule:"


class CatchUp(enum.StrEnum):
    """Which of the times that nobody was there for still get a task."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


class Overlap(enum.StrEnum):
    """What happens at a time at which an earlier task of the schedule has not ended."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL_OLD = "cancel_old"


def date(now: StoreTime, calendar: Calendar, *, shared: bool) -> WallTime:
    """Return the date that schedules go by: the host's, or the server's, which all nodes share."""
    return WallTime(now) if shared else calendar.date(now)


class ScheduleChange(enum.StrEnum):
    """What an operator does to a schedule."""

    PAUSE = "pause"
    RESUME = "resume"
    FORGET = "forget"


class Schedule(Struct, frozen=True, kw_only=True):
    """One schedule of a configuration."""

    name: str
    cron: str
    time_zone: str
    catch_up: CatchUp
    overlap: Overlap

    @property
    def definition(self) -> str:
        """What its times follow from."""
        return f"{self.cron} {self.time_zone}"

    @property
    def origin(self) -> str:
        """The origin of its tasks."""
        return f"{ORIGIN}{self.name}"


class ScheduleState(Struct, frozen=True, kw_only=True):
    """A row of `schedules`. Its times but `noted_at` are dates."""

    name: str
    definition: str
    settled_at: WallTime
    """No time until then gets a task any more."""
    fired_at: WallTime | None = None
    """The last time that got a task."""
    task_id: int | None = None
    """That task, which may be deleted."""
    note: str | None = None
    """Why the last time got none; None: it got one."""
    noted_at: StoreTime | None = None
    paused: str | None = None
    """Why an operator has paused it; None: it goes on."""


class Schedules(Protocol):
    """The schedules of a configuration, for a supervisor."""

    @property
    def every(self) -> Sequence[Schedule]:
        """All of them."""

    def task(self, name: str, time: WallTime) -> NewTask:
        """Return the task of a schedule for one of its times.

        Raises `InvalidTask`, or `ConfigError` for a profile with a mistake.
        """
