"""A host's clock that is set, in virtual time: nothing is due, late or lost for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher.errors import StoreUnavailable
from dispatcher.execution import LOCAL
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.store.sql import SqlStore
from dispatcher.supervisor.retention import LOOK_INTERVAL
from dispatcher.supervisor.turn import Request
from dispatcher.times import StoreTime, WallTime
from dispatcher.words import Beat, Declaration, Renewed
from tests.simulation import EPOCH, SETTINGS, World
from tests.unit.test_leases import ends_after_quiet
from tests.unit.test_retention import FakeFiles

HOUR = 3_600.0
DAY = 24 * HOUR

#: Steps as they come: of one who mistypes a date, of a host that wakes up, of a zone mistaken.
STEPS = [40 * DAY, -DAY, HOUR, -HOUR, 1.5]


@pytest.fixture(params=STEPS, ids="{:+}s".format)
def step(request: pytest.FixtureRequest) -> float:
    return float(request.param)


@pytest.fixture
def world() -> World:
    return World().start()


def after(world: World, step: float) -> None:
    """Let the clock be set, and the daemon have a look."""
    world.run_for(0.25)
    world.step_clock(step)
    world.run_for(0.25)


def hand(world: World, **facts: Any) -> int:
    """Submit a task that nobody claims: both slots are taken."""
    for _ in range(SETTINGS.slots):
        world.submit()
    return world.submit(priority=-1, **facts)


def test_a_delay_is_as_long_as_requested(world: World, step: float) -> None:
    task = world.submit(delay_ms=10_000)

    after(world, step)

    assert (TaskState.SCHEDULED, TaskState.RUNNING) == world.states_at(task, 9.4, 0.1)


def test_a_back_off_is_as_long_as_it_was(step: float) -> None:
    world = World().start()
    task = world.submit(backoff_min_ms=2_000, backoff_max_ms=2_000)
    world.settle_down()
    world.gone(task, 1)

    after(world, step)

    assert (TaskState.SCHEDULED, TaskState.RUNNING) == world.states_at(task, 0.4, 1.1)


def test_a_cool_down_is_as_long_as_it_was(world: World, step: float) -> None:
    task = world.submit()
    world.settle_down()
    world.gone(task, 75)

    after(world, step)

    assert (TaskState.SCHEDULED, TaskState.RUNNING) == world.states_at(task, 29.4, 0.1)


@pytest.mark.parametrize("timeout", ["queue_timeout_ms", "total_timeout_ms"])
def test_a_waiting_task_fails_at_its_time_and_not_for_a_step(
    world: World, step: float, timeout: str
) -> None:
    task = hand(world, **{timeout: 10_000})
    world.settle_down()

    after(world, step)

    assert (TaskState.READY, TaskState.FAILED) == world.states_at(task, 9.4, 0.1)


def test_a_run_is_ended_at_its_total_time_and_not_for_a_step(world: World, step: float) -> None:
    world.submit(total_timeout_ms=10_000)
    world.settle_down()

    after(world, step)

    assert [Outcome.TIMED_OUT] == ends_after_quiet(world, 9.4, 0.1)


def test_a_task_submitted_before_the_daemon_saw_a_step_is_delayed_as_requested(
    world: World, step: float
) -> None:
    world.step_clock(step)
    task = world.submit(delay_ms=5_000)

    assert (TaskState.SCHEDULED, TaskState.RUNNING) == world.states_at(task, 4.9, 0.1)


def test_a_deferral_after_a_step_lasts_as_long_as_requested(world: World, step: float) -> None:
    task = world.submit(liveness=Liveness.WORKER)
    world.settle_down()
    lock = world.executor.starts[-1].env["DISPATCHER_CLAIM_LOCK"]
    world.step_clock(step)
    words = Declaration(task_id=task, lock=lock, word=Declared.DEFER, delay_ms=5_000)
    world.tick(Request(words, lambda *_: None))
    world.gone(task)

    assert (TaskState.SCHEDULED, TaskState.RUNNING) == world.states_at(task, 4.9, 0.1)


# Steps while no daemon runs -----------------------------------------------------------------


def test_a_worker_outlives_a_step_in_the_daemons_absence_by_its_own_lease(step: float) -> None:
    world = World().start()
    task = world.submit(liveness=Liveness.WORKER, lease_ttl_ms=30_000)
    world.settle_down()
    world.run_for(6)  # the node's row is written

    world.step_clock(step)
    world.elapsed += 4
    world.restart()

    assert ["lost"] == ends_after_quiet(world, 19.8, 0.3)
    assert 1 == len(world.runs(task))


def test_a_local_claim_outlives_a_step_in_the_daemons_absence(step: float) -> None:
    world = World().start()
    world.submit(queue="hand", lease_ttl_ms=30_000)
    with world.store.transaction() as now:
        claim = world.store.claim_local("hand", owner=f"{LOCAL}me", output_dir="/o", now=now)
    assert claim is not None

    world.step_clock(step)
    world.restart()
    world.run_for(29.8)
    with world.store.transaction() as now:
        beat = Beat(task_id=claim.task_id, lock=claim.lock)
        assert isinstance(world.store.heartbeat([beat], now=now)[0], Renewed)
    world.run_for(29.8)

    assert TaskState.RUNNING is world.state(claim.task_id)


def test_a_delay_goes_on_over_a_step_in_the_daemons_absence(step: float) -> None:
    world = World().start()
    task = world.submit(delay_ms=10_000)

    world.step_clock(step)
    world.elapsed += 5
    world.restart()

    assert (TaskState.SCHEDULED, TaskState.RUNNING) == world.states_at(task, 4.9, 0.1)


# A wrong date for a while -------------------------------------------------------------------


def test_forty_days_ahead_for_seventy_seconds_delete_nothing_and_fail_nobody() -> None:
    files = FakeFiles()
    world = World(replace(SETTINGS, retention=30 * DAY), files=files).start()
    done = world.submit()
    world.settle_down()
    world.gone(done)
    hour = round(HOUR * 1000)
    waiting = hand(world, total_timeout_ms=hour, queue_timeout_ms=hour)
    later = world.submit(delay_ms=hour, total_timeout_ms=2 * hour)
    world.run_for(100)

    world.step_clock(40 * DAY)
    world.run_for(70)
    world.step_clock(-40 * DAY)
    world.run_for(HOUR - 171)

    assert [TaskState.SUCCEEDED, TaskState.READY, TaskState.SCHEDULED] == [
        world.state(task) for task in (done, waiting, later)
    ]
    assert [] == files.discarded
    world.run_for(2)
    assert TaskState.FAILED is world.state(waiting)
    assert TaskState.SCHEDULED is not world.state(later)


def test_files_are_old_by_the_clock_that_showed_when_they_were_written() -> None:
    files = FakeFiles()
    world = World(replace(SETTINGS, retention=HOUR), files=files).start()
    world.run_for(3 * HOUR)

    world.step_clock(0.5 * HOUR)
    world.run_for(2 * LOOK_INTERVAL)
    looked = files.expired_before
    assert looked is not None
    assert EPOCH + 2 * HOUR * 1000 <= looked <= EPOCH + (2 * HOUR + 2 * LOOK_INTERVAL) * 1000
    world.run_for(2 * HOUR)

    assert files.expired_before == WallTime(world.wall() - round(HOUR * 1000))


def test_nothing_is_pruned_within_the_hour_after_the_clock_was_set_by_much() -> None:
    world = World(replace(SETTINGS, retention=600)).start()
    task = world.submit()
    world.settle_down()
    world.gone(task)
    world.run_for(300)

    world.step_clock(DAY)
    world.run_for(HOUR - 1)
    assert TaskState.SUCCEEDED is world.state(task)
    world.run_for(LOOK_INTERVAL + 1)

    with world.store.snapshot():
        assert world.store.task(task) is None


# What is logged, and what it costs -----------------------------------------------------------


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    with capture_logs() as lines:
        yield cast("list[dict[str, Any]]", lines)


def gaps(logged: list[dict[str, Any]]) -> list[int]:
    return [line["gap_ms"] for line in logged if line["event"] == "clock.stepped"]


def test_each_step_is_logged_once_with_its_size_though_no_lease_lives(
    world: World, logged: list[dict[str, Any]]
) -> None:
    for seconds in (40 * DAY, -40 * DAY, -DAY):
        world.step_clock(seconds)
        world.run_for(70)

    sizes = [40 * 86_400_000, -40 * 86_400_000, -86_400_000]
    assert sizes == gaps(logged)
    assert ["ahead", "back", "back"] == [line["message"].split()[5].strip(";") for line in logged]


def test_a_step_in_the_daemons_absence_is_logged_when_it_is_back(
    world: World, logged: list[dict[str, Any]]
) -> None:
    world.step_clock(-HOUR)
    world.restart()

    assert [-3_600_000] == gaps(logged)
    assert [] == [line for line in logged if line["event"] == "daemon.was_away"]


def test_a_step_that_a_command_saw_first_is_logged_by_the_daemon_and_by_no_later_one(
    world: World, logged: list[dict[str, Any]]
) -> None:
    world.run_for(60)
    for steps in (1, 2):
        for _ in range(steps):
            world.step_clock(HOUR)
            with world.store.transaction():
                world.store.watch_clock()
        world.run_for(60)
    world.restart()
    world.step_clock(-HOUR)
    with world.store.transaction():
        world.store.watch_clock()
    world.restart()
    world.run_for(60)
    world.restart()

    assert [3_600_000, 7_200_000, -3_600_000] == gaps(logged)


def test_a_step_is_logged_when_its_commit_succeeds(
    world: World, logged: list[dict[str, Any]]
) -> None:
    transaction = world.store.transaction

    @contextmanager
    def failing() -> Iterator[StoreTime]:
        with transaction() as now:
            yield now
            raise StoreUnavailable

    world.store.transaction = failing  # type: ignore[method-assign]
    world.step_clock(HOUR)
    world.run_for(5)
    assert [] == gaps(logged)
    world.store.transaction = transaction  # type: ignore[method-assign]
    world.run_for(5)

    assert [3_600_000] == gaps(logged)


def test_corrections_of_less_than_a_second_are_not_a_step(
    world: World, logged: list[dict[str, Any]]
) -> None:
    for _ in range(3):
        world.step_clock(0.3)
        world.run_for(10)

    assert [] == gaps(logged)


def test_a_step_costs_one_row_however_many_tasks_wait(world: World) -> None:
    for _ in range(2_000):
        world.submit(delay_ms=1_000_000)
    world.settle_down()
    changes = cast("Any", cast("SqlStore", world.store).engine).connection
    before = changes.total_changes

    world.step_clock(DAY)
    world.run_for(SETTINGS.poll)

    assert 1 == changes.total_changes - before
