"""Tasks that not every node may run, and limits of a queue on all nodes, in virtual time."""

from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher.execution import Claims
from dispatcher.model import TaskState
from dispatcher.named_limits import Rule
from dispatcher.supervisor.claimer import LIMIT_RETRY
from dispatcher.supervisor.supervisor import Supervisor
from tests.recorded_logs import expect_catalogued
from tests.simulation import NODE, SETTINGS, World


def node(**changes: Any) -> World:
    """Return a world whose daemon has found its executor."""
    return World(settings=replace(SETTINGS, **changes)).start()


def running(world: World, tasks: list[int]) -> list[int]:
    return [task for task in tasks if world.state(task) is TaskState.RUNNING]


def test_a_task_runs_where_the_labels_are_that_it_requires() -> None:
    world = node(labels={"gpu": "a100"}, slots=9)
    here, elsewhere = world.submit(requires={"gpu": "a100"}), world.submit(requires={"gpu": "v100"})
    world.settle_down()

    assert [here] == running(world, [here, elsewhere])


def test_new_labels_of_a_reload_count_from_the_next_tick() -> None:
    world = node()
    task = world.submit(requires={"gpu": "a100"})
    world.settle_down()

    world.supervisor.reconfigure(replace(SETTINGS, labels={"gpu": "a100"}))
    world.settle_down()

    assert TaskState.RUNNING is world.state(task)
    with world.store.snapshot():
        (row,) = world.store.nodes()
    assert {"gpu": "a100"} == row.labels


@pytest.mark.parametrize("barren", [1, 7, 30])
def test_queues_of_which_nothing_fits_hide_none_behind_them(barren: int) -> None:
    world = node(slots=1)
    for number in range(barren):
        world.submit(queue=f"a{number}", requires={"gpu": "a100"})
    tasks = [world.submit(queue=queue) for queue in ("a", "z")]

    world.tick()
    (first,) = running(world, tasks)
    world.gone(first)

    assert [*{*tasks} - {first}] == running(world, tasks)


def test_what_does_not_fit_hides_nothing_behind_it_in_its_queue() -> None:
    world = node(slots=2)
    for _ in range(10):
        world.submit(requires={"gpu": "a100"}, priority=5)
    tasks = [world.submit() for _ in range(3)]
    world.tick()

    assert tasks[:2] == running(world, tasks)


def test_a_queue_of_which_nothing_fits_makes_nobody_busy() -> None:
    world = node()
    world.submit(requires={"gpu": "a100"})

    world.tick()

    assert world.deadline > world.at()


def drains(supervisor: Supervisor, world: World) -> bool:
    world.run_for(3)
    return supervisor.is_over(at=world.at())


def test_a_drain_until_idle_waits_for_no_task_that_this_node_alone_may_not_run() -> None:
    world = node(until_idle=True)
    world.submit(requires={"gpu": "a100"}, delay_ms=1)
    assert drains(world.supervisor, world)

    world.submit()
    world.tick()
    assert not world.supervisor.is_over(at=world.at())


def test_a_node_that_drains_goes_on_with_what_runs() -> None:
    world = node()
    first = world.submit()
    world.settle_down()
    with world.store.transaction() as now:
        world.store.drain_node(NODE, "new kernel", now=now)
    second = world.submit()
    world.gone(first)
    world.run_for(5)
    assert (TaskState.SUCCEEDED, TaskState.READY) == (world.state(first), world.state(second))

    with world.store.transaction() as now:
        world.store.resume_node(NODE, now=now)
    world.run_for(2)
    assert TaskState.RUNNING is world.state(second)


def test_a_drain_until_idle_of_a_node_that_takes_no_work_ends_once_nothing_runs() -> None:
    world = node(until_idle=True)
    running, left = world.submit(), world.submit(delay_ms=1)
    world.tick()
    with world.store.transaction() as now:
        world.store.drain_node(NODE, "new kernel", now=now)
    assert not drains(world.supervisor, world)

    with capture_logs() as logs:
        world.gone(running)
        assert drains(world.supervisor, world)

    expect_catalogued(logs)
    assert 1 == [line["event"] for line in logs].count("node.left_draining")
    assert TaskState.READY is world.state(left)


def test_a_restarted_daemon_of_a_node_goes_on_draining() -> None:
    world = node()
    with world.store.transaction() as now:
        world.store.drain_node(NODE, "new kernel", now=now)

    world.restart()
    task = world.submit()
    world.run_for(100)

    assert TaskState.READY is world.state(task)


@pytest.mark.parametrize(("here", "everywhere", "run"), [(4, 2, 2), (1, 3, 1), (4, 9, 4)])
def test_both_limits_of_a_queue_hold(here: int, everywhere: int, run: int) -> None:
    limits = {"concurrency": {"q": here}, "limits": {"queue:q": Rule(concurrency=everywhere)}}
    world = node(slots=9, **limits)
    tasks = [world.submit(queue="q") for _ in range(6)]
    other = world.submit()
    world.settle_down()

    assert tasks[:run] == running(world, tasks)
    assert [other] == running(world, [other])

    world.gone(tasks[0])
    assert tasks[1 : run + 1] == running(world, tasks)


def test_runs_of_other_nodes_count_for_the_limit_of_a_queue_on_all() -> None:
    world = World(settings=replace(SETTINGS, slots=9, limits={"queue:q": Rule(concurrency=3)}))
    tasks = [world.submit(queue="q") for _ in range(5)]
    with world.store.transaction() as now:
        world.store.claim("q", limit=2, node="another", output_dir="/o", until=now, now=now)
    world.executor.alive = {world.uid(task): "it lives" for task in tasks[:2]}
    world.start()

    assert tasks[:3] == running(world, tasks)


def test_a_limit_that_a_reload_brings_holds() -> None:
    world = node(slots=9)
    world.supervisor.reconfigure(
        replace(SETTINGS, slots=9, limits={"queue:q": Rule(concurrency=1)})
    )
    tasks = [world.submit(queue="q") for _ in range(3)]
    world.settle_down()

    assert tasks[:1] == running(world, tasks)


def test_a_queue_whose_limit_another_node_had_locked_is_claimed_from_a_moment_later() -> None:
    """Its place would be free for a poll."""
    world = node(slots=9, limits={"queue:q": Rule(concurrency=3)})
    found = world.store.claim
    locked = iter([True, True])

    def claim(*args: Any, **facts: Any) -> Claims:
        if not next(locked, False):
            return found(*args, **facts)
        busy = Claims()
        busy.busy = True
        return busy

    world.store.claim = claim  # type: ignore[method-assign]
    task = world.submit(queue="q")
    world.settle_down()
    assert [] == running(world, [task])

    world.run_for(2 * LIMIT_RETRY)

    assert [task] == running(world, [task])
