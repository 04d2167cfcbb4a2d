"""Schedules in virtual time: outages, clocks that change or are set, catch-up and overlap."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher.errors import InvalidTask
from dispatcher.model import TaskFilter, TaskState
from dispatcher.new_task import NewTask
from dispatcher.schedules import CatchUp, Overlap, Schedule, ScheduleChange, ScheduleState, date
from dispatcher.store.sql import SqlStore
from dispatcher.supervisor.stop import Stop
from dispatcher.times import StoreTime, WallTime, iso
from tests.recorded_logs import expect_catalogued
from tests.simulation import SETTINGS, World

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

#: A day takes as few ticks as schedules need.
SLOW = replace(SETTINGS, poll=60.0, reap_interval=60.0)


def schedule(**wanted: Any) -> Schedule:
    facts = {"catch_up": CatchUp.ONE, "overlap": Overlap.SKIP, "time_zone": "UTC"}
    return Schedule(**{"name": "s", "cron": "0 * * * *", **facts, **wanted})


class FakeSchedules:
    """Schedules whose tasks are named by their time."""

    def __init__(self, *every: Schedule) -> None:
        self.every: Sequence[Schedule] = every
        self.mistake: str | None = None

    def task(self, name: str, time: WallTime) -> NewTask:
        if self.mistake is not None:
            raise InvalidTask(self.mistake)
        one = next(one for one in self.every if one.name == name)
        return NewTask(
            command=("true",),
            max_attempts=1,
            lease_ttl_ms=86_400_000,
            key=f"{one.origin}:{iso(time)}",
            origin=one.origin,
            labels={"time": iso(time)},
        )


def world_at(text: str, *every: Schedule, **changes: Any) -> World:
    """Return a world whose host's clock shows this, with these schedules."""
    world = World(settings=replace(SLOW, schedules=FakeSchedules(*every), **changes))
    wanted = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000
    world.elapsed = (wanted - world.wall()) / 1000
    world.deadline = world.at()
    return world.start()


def fired(world: World) -> list[str]:
    """Return the times that have a task, oldest first."""
    with world.store.snapshot():
        tasks = world.store.tasks(TaskFilter(oldest_first=True, limit=9999))
    return [task.labels["time"][5:16] for task in tasks]


def states(world: World) -> list[TaskState]:
    with world.store.snapshot():
        tasks = world.store.tasks(TaskFilter(oldest_first=True))
    return [task.state for task in tasks]


def state(world: World, name: str = "s") -> ScheduleState:
    with world.store.snapshot():
        return next(one for one in world.store.schedules() if one.name == name)


def succeed(world: World) -> None:
    """End every run that lives."""
    for uid in [*world.executor.runs]:
        world.executor.gone(uid)
    world.settle_down()


def test_r92_each_time_has_one_task_that_runs_at_once() -> None:
    world = world_at("2027-08-01T09:30", schedule())
    assert [] == fired(world), "a new schedule begins now"

    with capture_logs() as captured:
        for _ in range(3):
            world.run_for(HOUR)
            succeed(world)
    expect_catalogued(captured)

    assert ["08-01T10:00", "08-01T11:00", "08-01T12:00"] == fired(world)
    assert [TaskState.SUCCEEDED] * 3 == states(world)
    assert max(lateness(world)) < 100
    assert 3 == len([one for one in captured if one["event"] == "schedule.fired"])


def lateness(world: World) -> list[int]:
    """Return how many milliseconds after its time each task was submitted."""
    with world.store.snapshot():
        calendar = world.store.calendar()
        return [
            task.created_at - calendar.moment(WallTime(world_time(task.labels["time"])))
            for task in world.store.tasks(TaskFilter())
        ]


def world_time(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def test_without_schedules_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World().start()
    engine = cast("SqlStore", world.store).engine
    seen: list[str] = []
    rows = engine.rows
    monkeypatch.setattr(engine, "rows", lambda *words: seen.append(words[0]) or rows(*words))
    world.run_for(HOUR)

    assert not [text for text in seen if "schedules" in text]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (CatchUp.NONE, ["08-01T03:00", "08-05T03:00"]),
        (CatchUp.ONE, ["08-01T03:00", "08-04T03:00", "08-05T03:00"]),
        (CatchUp.ALL, [f"08-0{day}T03:00" for day in range(1, 6)]),
    ],
)
def test_r92_an_outage_is_made_up_for_as_the_schedule_says(
    catch_up: CatchUp, expected: list[str]
) -> None:
    one = schedule(cron="0 3 * * *", catch_up=catch_up, overlap=Overlap.QUEUE)
    world = world_at("2027-08-01T02:30", one)
    world.run_for(HOUR)
    world.elapsed += 3 * DAY  # nobody is there
    with capture_logs() as captured:
        world.restart()
        world.run_for(MINUTE)
    expect_catalogued(captured)
    missed = [one["since"] for one in captured if one["event"] == "schedule.missed"]
    world.restart()
    world.elapsed += DAY - HOUR
    world.settle_down()
    world.run_for(HOUR)

    assert expected == fired(world)
    assert ["2027-08-02T03:00:00.000Z"] * (catch_up is not CatchUp.ALL) == missed


@pytest.mark.parametrize(
    ("catch_up", "overlap", "times", "now"),
    [
        (CatchUp.NONE, Overlap.SKIP, [], []),
        (CatchUp.ONE, Overlap.SKIP, ["03"], ["running"]),
        (CatchUp.ALL, Overlap.SKIP, ["01"], ["running"]),
        (CatchUp.ONE, Overlap.QUEUE, ["03"], ["running"]),
        (CatchUp.ALL, Overlap.QUEUE, ["01", "02", "03"], ["running", "waiting", "waiting"]),
        (CatchUp.ALL, Overlap.CANCEL_OLD, ["01", "02", "03"], ["cancelled"] * 2 + ["running"]),
    ],
)
def test_what_is_made_up_for_overlaps_as_the_schedule_says(
    catch_up: CatchUp, overlap: Overlap, times: list[str], now: list[str]
) -> None:
    one = schedule(cron="0 3 * * *", catch_up=catch_up, overlap=overlap)
    world = world_at("2027-07-31T12:00", one)
    world.elapsed += 3 * DAY
    world.restart()
    world.run_for(MINUTE)

    assert [f"08-{day}T03:00" for day in times] == fired(world)
    assert now == [one.value for one in states(world)]


def test_an_earlier_task_that_goes_on_keeps_others_out() -> None:
    world = world_at("2027-08-01T09:30", schedule(overlap=Overlap.SKIP))
    with capture_logs() as captured:
        world.run_for(2 * HOUR)
    expect_catalogued(captured)
    assert ["08-01T10:00"] == fired(world)
    (skipped,) = [one for one in captured if one["event"] == "schedule.skipped"]
    assert ("2027-08-01T11:00:00.000Z", 1) == (skipped["time"], skipped["task_id"])
    assert "skipped 2027-08-01T11:00:00.000Z: task 1 has not ended" == state(world).note
    succeed(world)
    world.run_for(HOUR)

    assert ["08-01T10:00", "08-01T12:00"] == fired(world)
    assert state(world).note is None


def test_an_earlier_task_that_goes_on_is_waited_for() -> None:
    world = world_at("2027-08-01T09:30", schedule(overlap=Overlap.QUEUE))
    world.run_for(3 * HOUR)
    seen = [states(world)]
    for _ in range(2):
        succeed(world)
        world.run_for(MINUTE)
        seen.append(states(world))

    run, wait, done = TaskState.RUNNING, TaskState.WAITING, TaskState.SUCCEEDED
    assert [[run, wait, wait], [done, run, wait], [done, done, run]] == seen


def test_an_earlier_task_that_goes_on_is_ended_before_the_next_one_starts() -> None:
    world = world_at("2027-08-01T09:30", schedule(overlap=Overlap.CANCEL_OLD))
    world.run_for(1.5 * HOUR + 2)
    first = world.uid(1)
    assert [TaskState.RUNNING, TaskState.WAITING] == states(world)
    world.executor.gone(first, signal=15)
    world.run_for(MINUTE)

    assert [TaskState.CANCELLED, TaskState.RUNNING] == states(world)
    assert "the next one of schedule s is due" == world.task(1).reason


def test_a_held_task_keeps_no_other_out() -> None:
    world = world_at("2027-08-01T09:30", schedule(overlap=Overlap.SKIP))
    world.run_for(HOUR)
    with world.store.transaction() as now:
        world.store.hold(1, "why", now=now)
    succeed(world)
    world.run_for(HOUR)

    assert [TaskState.HELD, TaskState.RUNNING] == states(world)


@pytest.mark.parametrize(
    ("line", "first", "days", "expected"),
    [
        ("30 2 * * *", "2027-03-27T23:30", 0.15, ["03-28T01:00"]),
        ("30 2 * * *", "2027-10-30T23:50", 0.15, ["10-31T00:30"]),
        ("30 * * * *", "2027-10-30T23:50", 0.1, ["10-31T00:30", "10-31T01:30"]),
    ],
)
def test_r92_both_changes_of_the_clock(
    line: str, first: str, days: float, expected: list[str]
) -> None:
    one = schedule(cron=line, time_zone="Europe/Berlin", overlap=Overlap.QUEUE)
    world = world_at(first, one)
    world.run_for(days * DAY)

    assert expected == fired(world)


@pytest.mark.parametrize("restarts", [False, True])
def test_r92_a_clock_that_is_set_back_fires_nothing_twice(*, restarts: bool) -> None:
    world = world_at("2027-08-01T09:30", schedule())
    for _ in range(2):
        world.run_for(0.875 * HOUR)
        succeed(world)
    assert ["08-01T10:00", "08-01T11:00"] == fired(world)
    with world.store.transaction() as now:  # no key is left that could tell
        assert 2 == world.store.prune(before=StoreTime(now + 1), limit=99).tasks
    world.step_clock(-HOUR)
    if restarts:
        world.restart()
    world.run_for(HOUR)
    assert [] == fired(world)
    world.run_for(HOUR)

    assert ["08-01T12:00"] == fired(world)


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (CatchUp.NONE, ["08-01T16:00"]),
        (CatchUp.ONE, ["08-01T15:00", "08-01T16:00"]),
        (CatchUp.ALL, [f"08-01T{hour}:00" for hour in range(10, 17)]),
    ],
)
def test_r92_a_clock_that_is_set_ahead_counts_as_an_outage(
    catch_up: CatchUp, expected: list[str]
) -> None:
    world = world_at("2027-08-01T09:30", schedule(catch_up=catch_up, overlap=Overlap.QUEUE))
    world.run_for(10)
    world.step_clock(6 * HOUR)
    world.run_for(HOUR)

    assert expected == fired(world)


def test_after_a_clock_that_was_far_ahead_times_count_from_now_once_that_is_certain() -> None:
    world = world_at("2027-08-01T09:30", schedule(overlap=Overlap.QUEUE))
    world.step_clock(40 * DAY)
    world.run_for(HOUR)
    world.step_clock(-40 * DAY)
    before = fired(world)
    world.run_for(50 * MINUTE)
    assert before == fired(world), "it may be set again"
    world.run_for(2 * HOUR)

    assert ["08-01T12:00", "08-01T13:00"] == fired(world)[len(before) :]


def test_many_missed_times_are_made_up_for_in_bounded_transactions() -> None:
    one = schedule(cron="* * * * *", catch_up=CatchUp.ALL, overlap=Overlap.QUEUE)
    world = world_at("2027-07-31T12:00", one)
    world.elapsed += 5 * HOUR
    world.restart()
    world.run_for(10)

    assert 300 == len(fired(world))


@pytest.mark.parametrize("restarts", [False, True])
def test_another_cron_line_begins_when_it_is_first_seen(*, restarts: bool) -> None:
    world = world_at("2027-08-01T02:30", schedule(cron="0 3 * * *"))
    world.run_for(HOUR)
    succeed(world)
    world.elapsed += 9 * HOUR
    world.settle_down()
    changed = FakeSchedules(schedule(cron="0 * * * *"))
    if restarts:
        world.restart(schedules=changed)
    else:
        world.supervisor.reconfigure(replace(world.settings, schedules=changed))
        world.tick()
    assert ["08-01T03:00"] == fired(world), "nothing was missed"
    world.run_for(HOUR)

    assert ["08-01T03:00", "08-01T13:00"] == fired(world)


def test_two_daemons_with_different_lines_lose_no_time_of_theirs() -> None:
    """As while the files of several hosts are changed."""
    world = world_at("2027-08-01T09:30", schedule(cron="0 * * * *", overlap=Overlap.QUEUE))
    first = world.supervisor
    other = FakeSchedules(schedule(cron="20 * * * *", overlap=Overlap.QUEUE))
    second = world.fresh_supervisor(schedules=other)
    for _ in range(int(2.2 * HOUR / 20)):
        world.elapsed += 20
        for one in (first, second):
            world.supervisor = one
            world.tick()

    assert ["08-01T10:00", "08-01T10:20", "08-01T11:00", "08-01T11:20"] == fired(world)


def test_a_task_that_cannot_be_made_is_tried_again_and_says_why() -> None:
    one = schedule()
    world = world_at("2027-08-01T09:30", one)
    schedules = cast("FakeSchedules", world.settings.schedules)
    schedules.mistake = "payload: is missing"
    with capture_logs() as captured:
        world.run_for(40 * MINUTE)
    expect_catalogued(captured)
    refused = [one for one in captured if one["event"] == "schedule.refused"]
    assert refused
    assert {"payload: is missing"} == {one["error"] for one in refused}
    assert "payload: is missing" == state(world).note
    schedules.mistake = None
    world.run_for(2 * MINUTE)

    assert ["08-01T10:00"] == fired(world)
    assert state(world).note is None


def test_a_paused_schedule_submits_nothing_and_makes_up_for_nothing() -> None:
    world = world_at("2027-08-01T09:30", schedule(overlap=Overlap.QUEUE))
    change(world, ScheduleChange.PAUSE, "why")
    world.run_for(2 * HOUR)
    assert [] == fired(world)
    change(world, ScheduleChange.RESUME)
    world.run_for(HOUR)

    assert ["08-01T12:00"] == fired(world)


def test_a_schedule_that_was_resumed_fires_in_time() -> None:
    world = world_at("2027-08-01T09:30:30", schedule())
    change(world, ScheduleChange.PAUSE, "why")
    world.run_for(29 * MINUTE)
    change(world, ScheduleChange.RESUME)
    world.run_for(MINUTE)

    (late,) = lateness(world)
    assert late < 100


def change(world: World, word: ScheduleChange, reason: str | None = None) -> None:
    with world.store.transaction() as now:
        at = date(now, world.store.calendar(), shared=False)
        assert world.store.change_schedule("s", word, reason=reason, at=at, now=now)


def test_a_daemon_that_stops_submits_nothing() -> None:
    world = world_at("2027-08-01T09:30", schedule())
    world.supervisor.stop(Stop.DRAIN, at=world.at())
    world.elapsed += HOUR
    world.tick()

    assert [] == fired(world)


def test_a_removed_schedule_goes_on_where_it_was_if_it_comes_back() -> None:
    world = world_at("2027-08-01T09:30", schedule())
    world.run_for(HOUR)
    succeed(world)
    world.restart(schedules=None)
    world.run_for(2 * HOUR)
    assert ["08-01T10:00"] == fired(world)
    world.restart(schedules=FakeSchedules(schedule()))
    world.run_for(10)

    assert ["08-01T10:00", "08-01T12:00"] == fired(world)
