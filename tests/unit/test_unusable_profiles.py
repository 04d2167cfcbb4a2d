"""Tasks of a profile that the daemon cannot use are held, not run without what they need."""

import pytest
from msgspec.structs import replace

from dispatcher.executor_api import StartSettings
from dispatcher.model import Outcome, TaskState
from dispatcher.supervisor.turn import SupervisorSettings
from tests.simulation import SETTINGS, World

WHY = "/etc/p.env cannot be read: Permission denied; let the daemon read it"


def unusable(**reasons: str) -> SupervisorSettings:
    start = StartSettings(worker_socket="/run/worker.sock", unusable=reasons)
    return replace(SETTINGS, start=start)


@pytest.fixture
def world() -> World:
    return World(settings=unusable(p=WHY)).start()


def test_its_task_is_held_with_the_reason_and_charged_nothing(world: World) -> None:
    task_id = world.submit(profile="p")

    world.settle_down()

    task, (run,) = world.task(task_id), world.runs(task_id)
    mended = f"dispatcher reload, then dispatcher release {task_id}"
    reason = f"its profile cannot be used: {WHY}; once that is mended: {mended}"
    assert (TaskState.HELD, reason, 0) == (task.state, task.reason, task.attempts_used)
    assert (Outcome.HELD, reason, None) == (run.outcome, run.reason, run.pid)
    assert [] == world.executor.starts


def test_other_tasks_run_meanwhile(world: World) -> None:
    held = [world.submit(profile="p") for _ in range(5)]
    others = [world.submit(profile="q"), world.submit()]

    world.settle_down()

    assert [TaskState.HELD] * 5 == [world.state(task_id) for task_id in held]
    assert [TaskState.RUNNING] * 2 == [world.state(task_id) for task_id in others]
    report = world.supervisor.report(at=world.at())
    assert report.figures is not None
    assert (2, 7, 5) == (report.busy, report.figures.claims, report.figures.settled["held"])


def test_one_transaction_holds_no_more_tasks_than_there_are_slots(world: World) -> None:
    for _ in range(7):
        world.submit(profile="p")

    world.tick()

    with world.store.snapshot():
        counts = world.store.counts()["default"]
    assert SETTINGS.slots == counts[TaskState.HELD]
    assert world.deadline <= world.at(), "the next ones follow at once"
    world.settle_down()
    with world.store.snapshot():
        assert {TaskState.HELD: 7} == world.store.counts()["default"]


def test_a_task_that_is_released_after_the_mend_runs(world: World) -> None:
    task_id = world.submit(profile="p")
    world.settle_down()

    world.supervisor.reconfigure(unusable())
    with world.store.transaction() as now:
        world.store.release(task_id, now=now)
    world.settle_down()
    world.gone(task_id)

    assert TaskState.SUCCEEDED is world.state(task_id)
    assert [Outcome.HELD, Outcome.SUCCEEDED] == [run.outcome for run in world.runs(task_id)]


def test_a_run_that_lives_is_left_alone_when_its_profile_becomes_unusable() -> None:
    world = World().start()
    task_id = world.submit(profile="p")
    world.settle_down()

    world.supervisor.reconfigure(unusable(p=WHY))
    world.settle_down()

    assert TaskState.RUNNING is world.state(task_id)
