"""Submits the tasks of schedules when their times come: once, whichever daemons have them."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog
from msgspec.structs import replace

from dispatcher.errors import ConfigError, InvalidTask
from dispatcher.execution import Rows
from dispatcher.schedules import Overlap, Schedule, Schedules, ScheduleState, date
from dispatcher.store.api import Store
from dispatcher.supervisor.turn import Memory, Turn
from dispatcher.times import LONG_AGO, NEVER, Alarm, Instant, WallTime, iso

log = structlog.get_logger()

#: Milliseconds until the next look: at most, as the host's clock may be set meanwhile; while others
#: have a schedule locked; and while there are more missed times than fit into one transaction.
LOOK_AGAIN: Final = 60_000
BUSY_AGAIN: Final = 1_000
MORE_AGAIN: Final = 50

#: Missed times of one schedule in one transaction.
BATCH: Final = 50

#: Earlier tasks that a new one looks at, cancels or waits for.
MOST_EARLIER: Final = 50

#: Milliseconds; times that are settled further ahead than this come from a clock that was wrong.
AHEAD: Final = 86_400_000


class Scheduler:
    """Settles the times of schedules up to now; without any it does nothing.

    Times are dates: of the host's clock, or of the server's, which all nodes share.
    """

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store, self._memory = store, memory
        self._next_look = Alarm()
        self._followed: Schedules | None = None
        """Those of the last look."""
        self._since: dict[tuple[str, str], WallTime] = {}
        """When this daemon first saw each schedule with each definition."""

    @property
    def due(self) -> Instant:
        schedules = self._memory.settings.schedules
        if schedules is None or self._memory.stopping.how is not None:
            return NEVER
        return self._next_look.at if schedules is self._followed else LONG_AGO

    def is_due(self, at: Instant) -> bool:
        return at >= self.due

    def do(self, turn: Turn) -> None:
        schedules = self._memory.settings.schedules
        if schedules is None:
            return
        from dispatcher import cron  # noqa: PLC0415 - a library that few configurations need

        calendar = self._store.calendar()
        now = date(turn.now, calendar, shared=self._memory.settings.session is not None)
        definitions = {one.name: one.definition for one in schedules.every}
        states = self._store.take_schedules(definitions, at=now)
        wake = [WallTime(now + LOOK_AGAIN)]
        for schedule in schedules.every:
            if (was := states.get(schedule.name)) is None:
                wake.append(WallTime(now + BUSY_AGAIN))
                continue
            state = self._followed_state(schedule, was, now, is_certain=not calendar.is_fresh)
            if was.paused is None:
                state, look_at = self._settled(turn, schedules, schedule, state, now)
                wake.append(look_at)
            else:  # an operator may resume it before
                wake.append(cron.first_after(schedule, now) or wake[0])
            if state != was:
                self._store.settle_schedule(state, now=turn.now)
        turn.after(partial(self._plan, schedules, turn.at + (min(wake) - now) / 1000))

    def _plan(self, schedules: Schedules, at: float) -> None:
        self._followed = schedules
        self._next_look.set(at)

    def _followed_state(
        self, schedule: Schedule, state: ScheduleState, now: WallTime, *, is_certain: bool
    ) -> ScheduleState:
        """Return a state for the schedule as it is here.

        A new definition counts from when this daemon first saw it: nothing was missed before.
        Another daemon may have the old one for a while. After a clock that was far ahead, times
        count from now.
        """
        since = self._since.setdefault((schedule.name, schedule.definition), now)
        if state.definition != schedule.definition:
            settled_at = max(state.settled_at, since)
            state = replace(state, definition=schedule.definition, settled_at=settled_at)
        if is_certain and state.settled_at > now + AHEAD:
            state = replace(state, settled_at=now)
        return state

    def _settled(
        self,
        turn: Turn,
        schedules: Schedules,
        schedule: Schedule,
        state: ScheduleState,
        now: WallTime,
    ) -> tuple[ScheduleState, WallTime]:
        """Submit the tasks of the times until now; return the state then, and when to look again.

        At a time whose task cannot be made, it stays as it is: it is tried again.
        """
        from dispatcher import cron  # noqa: PLC0415 - a library that few configurations need

        later = WallTime(now + LOOK_AGAIN)
        first = cron.first_after(schedule, state.settled_at)
        if first is None or first > now:
            return state, first or later
        found = cron.due(schedule, state.settled_at, now)
        if first not in found:
            until = iso(found[0] if found else now)
            facts = {"schedule": schedule.name, "since": iso(first), "until": until}
            turn.after(partial(log.info, "schedule.missed", **facts))
        for moment in found[:BATCH]:
            try:
                state = self._fired(turn, schedules, schedule, state, moment)
            except (InvalidTask, ConfigError) as error:
                facts = {"schedule": schedule.name, "error": str(error)}
                turn.after(partial(log.error, "schedule.refused", **facts))
                return replace(state, note=str(error)), later
        if len(found) <= BATCH:
            state = replace(state, settled_at=now)
        # Soon again, so that a tick follows which claims the task.
        return state, WallTime(now + MORE_AGAIN)

    def _fired(
        self,
        turn: Turn,
        schedules: Schedules,
        schedule: Schedule,
        state: ScheduleState,
        moment: WallTime,
    ) -> ScheduleState:
        """Submit the task of a time, unless an earlier one is to go on alone.

        Raises `InvalidTask` and `ConfigError`.
        """
        earlier = self._store.unfinished_of(schedule.origin, limit=MOST_EARLIER)
        if earlier and schedule.overlap is Overlap.SKIP:
            note = f"skipped {iso(moment)}: task {earlier[0].id} has not ended"
            facts = {"schedule": schedule.name, "time": iso(moment), "task_id": earlier[0].id}
            turn.after(partial(log.info, "schedule.skipped", **facts))
            return replace(state, settled_at=moment, note=note)
        task = schedules.task(schedule.name, moment)
        ids = [one.id for one in earlier]
        if ids and schedule.overlap is Overlap.CANCEL_OLD:
            self._cancel(turn, ids, f"the next one of schedule {schedule.name} is due")
            task = replace(task, after_any=tuple(ids))
        elif ids:
            task = replace(task, after_any=(ids[0],))
        (made,) = self._store.submit([task], now=turn.now)
        facts = {"schedule": schedule.name, "time": iso(moment), "task_id": made.task_id}
        if made.created:  # its key may be that of a task from before a restore
            turn.after(partial(log.info, "schedule.fired", **facts))
        return replace(state, settled_at=moment, fired_at=moment, task_id=made.task_id, note=None)

    def _cancel(self, turn: Turn, task_ids: Sequence[int], reason: str) -> None:
        self._store.lock_rows(Rows(tasks=task_ids))
        for task_id in task_ids:
            self._store.cancel(task_id, reason, now=turn.now)
