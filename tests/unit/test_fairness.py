"""When a trickle of tasks starts beside very many others: the real supervisor in virtual time."""

from collections import Counter

import pytest
from msgspec.structs import replace

from dispatcher.model import TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.lanes import MOST
from tests.simulation import SETTINGS, World

MINUTE = 60

#: How long each task runs, in seconds.
LENGTH = 5


def world(slots: int = 1, **wanted: object) -> World:
    return World(settings=replace(SETTINGS, slots=slots, **wanted)).start()


def submit_many(one: World, many: int, **wanted: object) -> list[int]:
    task = NewTask(command=("true",), max_attempts=3, lease_ttl_ms=600_000, **wanted)  # type: ignore[arg-type]
    with one.store.transaction() as now:
        made = [done.task_id for done in one.store.submit([task] * many, now=now)]
    one.settle_down()
    return made


def next_ends(one: World) -> None:
    """Let every run that lives end, after the length of a task."""
    one.run_for(LENGTH)
    for uid in [*one.executor.runs]:
        one.executor.gone(uid)
    one.settle_down()


def started(one: World) -> list[int]:
    """Return the tasks in the order of their starts."""
    return [int(start.env["DISPATCHER_TASK_ID"]) for start in one.executor.starts]


def test_r47_a_trickle_in_a_queue_of_its_own_starts_next_beside_10_000_urgent_tasks() -> None:
    one = world()
    submit_many(one, 10_000, queue="urgent", priority=1000)
    next_ends(one)
    (trickle,) = submit_many(one, 1, queue="trickle", priority=-5)
    next_ends(one)

    assert TaskState.RUNNING is one.state(trickle)


@pytest.mark.parametrize(("weight", "bound"), [(3, 3), (10, 10)])
def test_a_queue_of_less_weight_starts_within_the_turns_of_the_others(
    weight: int, bound: int
) -> None:
    one = world(weights={"urgent": weight})
    submit_many(one, 200, queue="urgent")
    for _ in range(weight + 2):
        next_ends(one)
    (trickle,) = submit_many(one, 1, queue="trickle")
    before = len(started(one))
    while TaskState.READY is one.state(trickle):
        next_ends(one)

    assert len(started(one)) - before <= bound + 1


@pytest.mark.parametrize("slots", [1, 2, 5, 7])
def test_queues_get_slots_in_proportion_to_their_weights(slots: int) -> None:
    one = world(slots, weights={"a": 3, "c": 2})
    queues = {name: submit_many(one, 100, queue=name) for name in "abc"}
    of = {task: name for name, tasks in queues.items() for task in tasks}
    # Those that were claimed before all had tasks.
    first = len(started(one))
    while len(started(one)) < first + 60:
        next_ends(one)

    found = Counter(of[task] for task in started(one)[first : first + 60])
    assert all(abs(found[name] - many) <= 3 for name, many in {"a": 30, "b": 10, "c": 20}.items())


def test_a_queue_that_was_empty_has_saved_nothing() -> None:
    one = world(weights={"a": 5})
    submit_many(one, 50, queue="b")
    for _ in range(20):
        next_ends(one)
    tasks = submit_many(one, 50, queue="a")
    begin = len(started(one))
    for _ in range(12):
        next_ends(one)

    assert 10 == sum(task in tasks for task in started(one)[begin : begin + 12])


def test_a_queue_without_tasks_gives_up_the_rest_of_its_turn() -> None:
    one = world(weights={"a": 5, "b": 5})
    first, second = submit_many(one, 2, queue="a"), submit_many(one, 3, queue="b")
    for _ in range(4):
        next_ends(one)

    assert first + second == started(one)


def test_a_turn_is_over_once_its_queue_is_empty_also_if_no_other_has_tasks() -> None:
    one = world(weights={"a": 5})
    submit_many(one, 1, queue="a")
    next_ends(one)
    one.run_for(LENGTH)
    a = [one.submit(queue="a") for _ in range(7)]
    b = [one.submit(queue="b") for _ in range(2)]
    one.settle_down()
    for _ in range(9):
        next_ends(one)

    assert [b[0], *a[:5], b[1], *a[5:]] == started(one)[1:]


def test_a_turn_is_over_once_its_queue_has_too_few_tasks_for_it() -> None:
    one = world(3, weights={"a": 5})
    for _ in range(2):
        one.submit(queue="a")
    one.tick()
    one.submit(queue="a")
    task = one.submit(queue="b")
    one.settle_down()

    assert task in started(one)


def test_r47_a_queue_whose_tasks_are_blocked_takes_no_turn_from_others() -> None:
    one = world(weights={"blocked": 50})
    submit_many(one, 5, queue="blocked", requires={"gpu": "a100"})
    tasks = submit_many(one, 5, queue="a") + submit_many(one, 5, queue="b")
    for _ in range(9):
        next_ends(one)

    a, b = tasks[:5], tasks[5:]
    assert [task for pair in zip(a, b, strict=True) for task in pair] == started(one)


def test_a_weight_takes_nothing_from_a_limit() -> None:
    one = world(6, weights={"a": 9}, concurrency={"a": 2})
    a, b = submit_many(one, 9, queue="a"), submit_many(one, 9, queue="b")

    assert [2, 4] == [sum(task in started(one) for task in some) for some in (a, b)]


def test_with_ageing_a_trickle_starts_before_all_that_come_later_than_its_bound() -> None:
    """Two urgent tasks come for each that ends; the trickle waits for those of ten minutes."""
    ageing = 10 * MINUTE
    one = world()
    wanted = {"priority": 1, "ageing_ms": ageing * 1000}
    (trickle,) = submit_many(one, 1, queue="default", ageing_ms=ageing * 1000)
    blocker = started(one)
    assert [trickle] == blocker
    (trickle,) = submit_many(one, 1, ageing_ms=ageing * 1000)
    came: dict[int, float] = {}
    while TaskState.READY is one.state(trickle):
        came |= dict.fromkeys(submit_many(one, 2, **wanted), one.elapsed)
        next_ends(one)
        assert one.elapsed < 3 * ageing

    order = started(one)
    ahead = [task for task in order[: order.index(trickle)] if task in came]
    assert ahead == [task for task, at in came.items() if at < ageing]
    assert 2 * ageing - 2 * LENGTH <= one.elapsed <= 2 * ageing + 2 * LENGTH


def test_without_ageing_it_waits_for_all_of_a_higher_priority() -> None:
    one = world()
    submit_many(one, 1)
    (trickle,) = submit_many(one, 1)
    for _ in range(200):
        submit_many(one, 2, priority=1)
        next_ends(one)

    assert TaskState.READY is one.state(trickle)


def test_of_very_many_lanes_the_one_that_a_node_may_run_is_found_at_once() -> None:
    one = world(labels={"lane": "9999"})
    for n in range(4 * MOST):
        one.submit(requires={"lane": f"{n:04}"})
    one.settle_down()
    task = one.submit(requires={"lane": "9999"})
    one.run_for(2)

    assert [task] == started(one)


def test_a_task_that_comes_into_a_lane_behind_a_round_is_found_in_the_next_round_at_once() -> None:
    one = world(labels={"lane": "0000"})
    for n in range(1, 4 * MOST):
        one.submit(requires={"lane": f"{n:04}"})
    one.tick()
    one.tick()
    task = one.submit(requires={"lane": "0000"})
    one.settle_down()

    assert [task] == started(one)


def test_a_node_that_may_run_none_of_very_many_lanes_comes_to_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = world()
    for n in range(4 * MOST):
        one.submit(requires={"lane": f"{n:04}"})
    one.run_for(10)
    claims = []
    monkeypatch.setattr(one.store, "claim", lambda *args, **_: claims.append(args))
    one.run_for(60)

    assert [] == started(one) == claims
