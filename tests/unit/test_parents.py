"""What becomes of tasks with parents, in virtual time: at once, however many follow each other."""

from dispatcher.dependency import ParentFailure
from dispatcher.model import TaskState
from tests.simulation import World

#: Milliseconds until a task is due that a test ends before.
LONG = 10**7


def test_a_chain_is_cancelled_at_once() -> None:
    world = World().start()
    first = last = world.submit(delay_ms=LONG)
    for _ in range(60):
        last = world.submit(after=(last,), on_parent_failure=ParentFailure.CANCEL)
    world.settle_down()

    world.cancel(first)
    world.settle_down()

    assert TaskState.CANCELLED is world.state(last)


def test_the_ends_of_many_parents_are_passed_on_at_once() -> None:
    world = World().start()
    parents = [world.submit(delay_ms=LONG) for _ in range(250)]
    children = [world.submit(after=(one,)) for one in parents]
    world.settle_down()

    with world.store.transaction() as now:
        for one in parents:
            world.store.cancel(one, "no longer wanted", now=now)
    world.settle_down()

    assert {TaskState.HELD} == {world.state(child) for child in children}


def test_a_parent_that_gives_up_lets_its_children_know_at_once() -> None:
    world = World().start()
    one = world.submit(delay_ms=LONG, total_timeout_ms=10_300)
    child = world.submit(after=(one,))

    world.run_for(10.3)

    assert (TaskState.FAILED, TaskState.HELD) == (world.state(one), world.state(child))
