"""Makes the schedules of a configuration, and their tasks."""

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from dispatcher import submission
from dispatcher.config.config import Config
from dispatcher.config.task_settings import TaskDefaults
from dispatcher.errors import ConfigError, InvalidTask
from dispatcher.model import Liveness
from dispatcher.new_task import NewTask
from dispatcher.schedules import CatchUp, Overlap, Schedule
from dispatcher.times import WallTime, iso

#: Where a schedule's task works unless it or its profile names a directory: every node has it.
DIRECTORY = "/"

#: The time for which a task is, ISO 8601 in UTC: a variable of the worker.
TIME_VARIABLE = "SCHEDULED_AT"


class ScheduleTasks:
    """`Schedules` of a configuration."""

    def __init__(self, config: Config) -> None:
        # Who writes the file may have commands in it where submitters may name profiles alone.
        allowed = replace(config.defaults, allow_commands=True)
        self._config = replace(config, defaults=allowed)
        self.every = tuple(schedules_of(config))

    def task(self, name: str, time: WallTime) -> NewTask:
        schedule, given = next(one for one in self.every if one.name == name), self._given(name)
        moment = iso(time).replace(".000Z", "Z")
        options: Any = {
            **given,
            "key": f"{schedule.origin}:{moment}",
            "env": {TIME_VARIABLE: moment, **given.get("env", {})},
        }
        command = self._config.schedules[name].command or ()
        return replace(submission.new_task(self._config, command, options), origin=schedule.origin)

    def _given(self, name: str) -> dict[str, Any]:
        table = self._config.schedules[name]
        own = ("profile", "payload", "queue", "cwd", "env")
        names = (*TaskDefaults.__struct_fields__, *own)
        given = {one: value for one in names if (value := getattr(table, one)) is not None}
        if "liveness" in given:
            given["liveness"] = Liveness(given["liveness"])
        profile = self._config.profiles.get(table.profile or "")
        if profile is None or profile.cwd is None:
            given.setdefault("cwd", DIRECTORY)
        return {**given, "labels": {"name": name, **(table.labels or {})}}


def schedules_of(config: Config) -> Iterator[Schedule]:
    """Yield the schedules of a configuration."""
    for name, table in config.schedules.items():
        yield Schedule(
            name=name,
            cron=table.cron,
            time_zone=table.time_zone,
            catch_up=CatchUp(table.catch_up),
            overlap=Overlap(table.overlap),
        )


def check(config: Config) -> None:
    """Raise `ConfigError` for the `mistakes` of schedules."""
    if found := [*mistakes(config)]:
        raise ConfigError("\n".join(found))


def mistakes(config: Config) -> Iterator[str]:
    """Yield a line for each schedule whose task nobody could submit.

    A profile with a mistake of its own is named elsewhere, and so is its file of secrets.
    """
    schedules = ScheduleTasks(config)
    for one in schedules.every:
        profile = config.schedules[one.name].profile
        if profile is not None and profile not in config.profiles:
            continue
        try:
            schedules.task(one.name, WallTime(0))
        except InvalidTask as error:
            yield f"{config.file}: schedules.{one.name}.{error}"
        except ConfigError:
            continue
