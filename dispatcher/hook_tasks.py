"""Makes the tasks of hooks from the configuration."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from dispatcher import submission
from dispatcher.calendar import Calendar
from dispatcher.config.config import Config
from dispatcher.errors import ConfigError, InvalidTask
from dispatcher.hooks import KINDS, ORIGIN, STATES, Happened, Hook
from dispatcher.model import TaskState
from dispatcher.new_task import NewTask

#: Reports a hook that made no task: the hook, its profile, the event's task, and why.
Complain = Callable[[Hook, str, int | None, str], object]

#: Where a hook's task works unless its profile names a directory: every node has it.
DIRECTORY: Final = "/"


class HookTasks:
    """`Hooks` of a configuration."""

    def __init__(self, config: Config, profiles: Mapping[Hook, str], complain: Complain) -> None:
        self._config, self._profiles, self._complain = config, profiles, complain
        self.states: frozenset[TaskState] = frozenset(
            state for hook, state in STATES.items() if hook in profiles
        )
        self.kinds = frozenset(kind for hook, kind in KINDS.items() if hook in profiles)

    def tasks(self, happened: Sequence[Happened], calendar: Calendar) -> list[NewTask]:
        made = (self._task(one, calendar) for one in happened)
        return [task for task in made if task is not None]

    def _task(self, happened: Happened, calendar: Calendar) -> NewTask | None:
        hook = happened.hook
        if hook is None or (profile := self._profiles.get(hook)) is None:
            return None
        try:
            wanted: submission.TaskOptions = {
                "profile": profile,
                "payload": msgspec.json.encode(_facts(hook, happened, calendar)).decode(),
                "labels": {"name": f"hook-{hook}"},
                "cwd": self._config.profiles[profile].cwd or DIRECTORY
                if profile in self._config.profiles
                else None,
            }
            task = submission.new_task(self._config, (), wanted)
        except (InvalidTask, ConfigError, UnicodeError) as error:
            self._complain(hook, profile, happened.task_id, str(error))
            return None
        return replace(task, origin=f"{ORIGIN}{hook}")


def hooks_of(config: Config, complain: Complain) -> HookTasks | None:
    """Return the hooks of a configuration; None if it has none."""
    given = {hook: getattr(config.hooks, hook.value) for hook in Hook}
    profiles = {hook: profile for hook, profile in given.items() if profile is not None}
    return HookTasks(config, profiles, complain) if profiles else None


def warn(hook: Hook, profile: str, task_id: int | None, error: str) -> None:
    """Warn, in a process of an operator, of a hook that made no task."""
    import logging  # noqa: PLC0415 - hardly ever needed

    what = "" if task_id is None else f" of task {task_id}"
    logging.getLogger(__name__).warning(
        "dispatcher: hook %s%s: profile %r makes no task: %s", hook, what, profile, error
    )


def _facts(hook: Hook, happened: Happened, calendar: Calendar) -> dict[str, object]:
    """Return the payload of a hook's task."""
    facts: dict[str, object] = {
        "event": hook.value,
        "event_id": happened.id,
        "time": calendar.iso(happened.at),
        "host": happened.hostname or os.uname().nodename,
        "who": happened.who,
        "reason": happened.event_reason or "",
    }
    if happened.task_id is None:
        return {**facts, "subject": happened.subject}
    return {
        **facts,
        "task_id": happened.task_id,
        "name": happened.labels.get("name", ""),
        "queue": happened.queue,
        "profile": happened.profile or "",
        "labels": happened.labels,
        "state": happened.after or happened.before,
        "fence": happened.fence,
        "outcome": happened.outcome,
        "exit_code": happened.exit_code,
        "signal": happened.signal,
        "output_path": happened.output_path,
    }
