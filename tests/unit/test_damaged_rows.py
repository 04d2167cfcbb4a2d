"""A row that somebody changed by hand while the daemon works, in virtual time."""

import pytest

from dispatcher.client import Client
from dispatcher.model import Outcome, TaskState
from dispatcher.store.claims import MOST_DAMAGED
from dispatcher.store.rows import DAMAGED
from tests.simulation import World

CHANGES = [
    "kill_grace_ms = 'x'",
    "run_timeout_ms = 'x'",
    "lease_ttl_ms = 'x'",
    "command = 'nope'",
    "env = '{\"A\":1}'",
    "rules = '['",
    'rules = \'{"0":"bogus"}\'',
    "fence = 9223372036854775807",
    "lease_ttl_ms = 9223372036854775807",
    "attempts_used = 9223372036854775807",
    "kill_signal = 65",
]


def damage(world: World, task_id: int, change: str) -> None:
    with world.store.transaction():
        engine = world.store.engine  # type: ignore[attr-defined]
        engine.change(f"UPDATE tasks SET {change} WHERE id = :id", {"id": task_id})


@pytest.mark.parametrize("change", CHANGES)
def test_r81_a_task_whose_row_is_damaged_is_held_and_its_neighbours_run(
    world: World, change: str
) -> None:
    damaged, other = world.submit("work", priority=1), world.submit("work")
    damage(world, damaged, change)

    world.start()

    assert (TaskState.HELD, TaskState.RUNNING) == (world.state(damaged), world.state(other))
    column = change.partition(" ")[0]
    assert world.task(damaged).reason.startswith(f"{DAMAGED}{column}: ")
    world.gone(other, 0)
    assert TaskState.SUCCEEDED is world.state(other)


def test_a_task_behind_very_many_damaged_ones_runs_without_a_further_event(world: World) -> None:
    for _ in range(2 * MOST_DAMAGED + 1):
        damage(world, world.submit("work", priority=1), CHANGES[3])
    behind, other = world.submit("work"), world.submit("work", queue="other")

    world.start()

    assert [TaskState.RUNNING] * 2 == [world.state(behind), world.state(other)]


def test_a_claim_by_hand_finds_the_task_behind_them(client: Client) -> None:
    ids = [client.submit(command=["true"]).task_id for _ in range(2 * MOST_DAMAGED + 1)]
    with client.store.transaction():
        engine = client.store.engine  # type: ignore[attr-defined]
        engine.change("UPDATE tasks SET command = 'nope' WHERE id < :id", {"id": ids[-1]})

    claim = client.claim()

    assert claim is not None
    assert ids[-1] == claim.task_id


@pytest.mark.parametrize("change", ["run_at = 'x'", "total_at = 'x', fails_at = 'x'"])
def test_a_time_that_nobody_can_read_never_comes_and_stops_no_clock(
    world: World, change: str
) -> None:
    damaged = world.submit("work", delay_ms=1000, total_timeout_ms=10**6)
    due = world.submit("work", delay_ms=2000, queue="other")
    damage(world, damaged, change)

    world.start()
    world.run_for(10)

    assert TaskState.RUNNING is world.state(due)
    assert world.task(damaged).reason.startswith(DAMAGED)
    waits = TaskState.SCHEDULED if change.startswith("run_at") else TaskState.HELD
    assert waits is world.state(damaged)


@pytest.mark.parametrize(
    "change",
    [
        "run_timeout_ms = 'x'",
        "rules = '['",
        'rules = \'{"1":"bogus"}\'',
        "attempts_used = 9223372036854775807",
        "deferrals = 9223372036854775807",
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_run_whose_row_is_damaged_meanwhile_ends_as_it_does_and_its_task_is_held(
    world: World, change: str, *, restarted: bool
) -> None:
    task, other = world.submit("work", max_attempts=3), world.submit("work")
    world.start()
    damage(world, task, change)
    if restarted:
        world.supervisor = world.fresh_supervisor()
        world.executor.greet()
        world.settle_down()
    world.run_for(100)

    assert (TaskState.RUNNING, TaskState.RUNNING) == (world.state(task), world.state(other))
    world.gone(task, 1)
    world.gone(other, 0)

    assert [Outcome.FAILED] == [run.outcome for run in world.runs(task)]
    assert TaskState.HELD is world.state(task)
    assert world.task(task).reason.startswith(f"{DAMAGED}{change.partition(' ')[0]}: ")
    assert TaskState.SUCCEEDED is world.state(other)


@pytest.fixture
def world() -> World:
    return World()
