"""Schedules as people see them: of the configuration and of the store."""

from collections.abc import Mapping

from msgspec import Struct

from dispatcher import commits, cron
from dispatcher.config.config import Config
from dispatcher.errors import DispatcherError, did_you_mean
from dispatcher.model import Outcome, Task
from dispatcher.schedule_tasks import schedules_of
from dispatcher.schedules import Schedule, ScheduleChange, ScheduleState, date
from dispatcher.store.api import ReaderStore, Store
from dispatcher.store.schema import is_shared
from dispatcher.times import StoreTime, WallTime


class ScheduleView(Struct, frozen=True, kw_only=True):
    """A schedule, with its last task."""

    name: str
    schedule: Schedule | None
    """None: this configuration has none of the name."""
    state: ScheduleState | None
    """None: no daemon has seen it yet."""
    next_at: WallTime | None
    """A date; None: not known, or it is paused."""
    task: Task | None
    """The last one; None: there is none, or it was deleted."""
    outcome: Outcome | None
    """Of that task's last run."""


def views(store: ReaderStore, config: Config) -> list[ScheduleView]:
    """Return the schedules of a configuration and of its store, by name."""
    here = {one.name: one for one in schedules_of(config)}
    with store.snapshot() as now:
        at, states = _date(store, config, now), {one.name: one for one in store.schedules()}
        names = sorted(here.keys() | states.keys())
        return [_view(store, name, here, states, at) for name in names]


def _view(
    store: ReaderStore,
    name: str,
    here: Mapping[str, Schedule],
    states: Mapping[str, ScheduleState],
    at: WallTime,
) -> ScheduleView:
    schedule, state, task, outcome, next_at = here.get(name), states.get(name), None, None, None
    if state is not None and state.task_id is not None:
        task = store.task(state.task_id, payload=False)
        run = None if task is None else store.last_run(task.id)
        outcome = None if run is None else run.outcome
    if schedule is not None and (state is None or state.paused is None):
        same = state is not None and state.definition == schedule.definition
        next_at = cron.first_after(schedule, state.settled_at if state and same else at)
    return ScheduleView(
        name=name, schedule=schedule, state=state, next_at=next_at, task=task, outcome=outcome
    )


def change(
    store: Store, config: Config, name: str, word: ScheduleChange | str, reason: str | None
) -> bool:
    """Pause a schedule, let it go on, or forget it; False: it was so already.

    Raises `DispatcherError` for a name that neither the configuration nor the store has, and to
    forget one of the configuration.
    """
    word, here = ScheduleChange(word), {one.name: one for one in schedules_of(config)}
    if name in here and word is ScheduleChange.FORGET:
        raise DispatcherError(
            f"schedule {name} is in {config.file}; remove [schedules.{name}] there, and reload"
        )

    def do(now: StoreTime) -> bool:
        at = _date(store, config, now)
        known = {*here, *(one.name for one in store.schedules())}
        if name not in known:
            near = did_you_mean(name, known) or "; dispatcher schedules lists them"
            raise DispatcherError(f"there is no schedule {name!r}{near}")
        if name in here:
            store.take_schedules({name: here[name].definition}, at=at)
        return store.change_schedule(name, word, reason=reason, at=at, now=now)

    return commits.change(store, commits.first_answer(do), remedy=f"{word} it again")


def _date(store: ReaderStore, config: Config, now: StoreTime) -> WallTime:
    return date(now, store.calendar(), shared=is_shared(config.store_url))
