"""The order of a queue's ready tasks, and which of them a claim reads."""

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import lanes
from dispatcher.execution import Claims
from dispatcher.model import TaskState
from dispatcher.store.lanes import MOST
from dispatcher.store.rows import DAMAGE_REMEDY, DAMAGED
from dispatcher.task_checks import MAX_NEEDS, checked
from tests.contract.helpers import EMBEDDED, NODE, NOW, SHARED, OneByOne, later, new_task
from tests.contract.interleaved import Sessions
from tests.postgres import Postgres

MINUTE = 60_000
GPU, ZONE = {"gpu": "a100"}, {"zone": "b"}


def submit(store: OneByOne, minutes: float, **wanted: Any) -> int:
    """Submit a task some minutes after `NOW`; return its id."""
    now = later(round(minutes * MINUTE))
    task_id: int = store.submit([new_task(**wanted)], now=now)[0].task_id
    return task_id


def claim(store: OneByOne, queue: str = "default", *, limit: int = 100, **wanted: Any) -> Claims:
    claims: Claims = store.claim(
        queue, limit=limit, node=NODE, output_dir="/out", now=NOW, **wanted
    )
    return claims


def ids(claims: Claims) -> list[int]:
    return [one.task_id for one in claims]


def test_without_ageing_priority_goes_first_however_long_others_wait(store: OneByOne) -> None:
    low, old = submit(store, 0, priority=-(2**31)), submit(store, 0)
    year = 365 * 24 * 60
    young, urgent = submit(store, 60 * year, priority=1), submit(store, 60 * year, priority=2)
    least, most = submit(store, 0, priority=1 - 2**31), submit(store, 60 * year, priority=2**31 - 1)

    assert [most, urgent, young, old, least, low] == ids(claim(store))


def test_with_ageing_a_point_of_priority_is_worth_so_much_waiting(store: OneByOne) -> None:
    ageing: dict[str, Any] = {"ageing_ms": 10 * MINUTE}
    old = submit(store, 0, **ageing)
    urgent = submit(store, 9, priority=1, **ageing)
    too_late = submit(store, 11, priority=1, **ageing)
    far_too_late = submit(store, 21, priority=2, **ageing)

    assert [urgent, old, too_late, far_too_late] == ids(claim(store))


def test_tasks_from_before_a_change_of_the_ageing_keep_the_worth_of_their_priority(
    store: OneByOne,
) -> None:
    """Only that: those of priority 0 are in the order of their submits, whatever was configured."""
    strict = submit(store, 0, priority=1)
    none, with_ageing = submit(store, 0), submit(store, 1, ageing_ms=MINUTE)
    low = submit(store, 0, priority=-1)
    aged_low = submit(store, 0, priority=-1, ageing_ms=5 * MINUTE)
    aged_high = submit(store, 1, priority=1, ageing_ms=2 * MINUTE)

    assert [strict, aged_high, none, with_ageing, aged_low, low] == ids(claim(store))


def test_an_edit_of_the_priority_or_the_labels_moves_a_task(store: OneByOne) -> None:
    first = submit(store, 0, ageing_ms=10 * MINUTE)
    second = submit(store, 5, ageing_ms=10 * MINUTE)
    third = submit(store, 9, requires=GPU)
    for task_id, change in (
        (second, {"priority": 1}),
        (third, {"requires": {}}),
        (first, {"requires": ZONE}),
    ):
        task = store.task(task_id)
        assert store.edit(task, replace(task, **change), now=NOW)

    reasons = {event.reason for event in store.task_events(third)}
    assert {None, "requires"} == reasons
    assert [second, third] == ids(claim(store, labels=GPU))
    assert [first] == ids(claim(store, labels=ZONE))


def test_tasks_that_need_different_things_are_claimed_in_one_order(store: OneByOne) -> None:
    wanted = [({}, 0), (GPU, 5), (ZONE, 3), ({**GPU, **ZONE}, 4), ({}, 3), (GPU, 0), ({}, 9)]
    made = [store.new(requires=requires, priority=priority) for requires, priority in wanted]
    order = [made[n] for n in (6, 1, 3, 2, 4, 0, 5)]

    labels = {**GPU, **ZONE, "disk": "ssd"}
    assert order[:2] == ids(claim(store, limit=2, labels=labels))
    assert [made[n] for n in (2, 4)] == ids(claim(store, limit=2, labels=ZONE))
    assert [made[n] for n in (3, 0, 5)] == ids(claim(store, labels=labels))


def test_labels_in_another_order_are_the_same_lane(store: OneByOne) -> None:
    for requires in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}):
        store.new(requires=requires)

    assert 1 == len({store.column("lane", task_id) for task_id in store.states()})
    assert 2 == store.requiring(limit=9)[0].tasks


def test_ready_tasks_are_found_and_counted_over_all_lanes_of_their_queue(store: OneByOne) -> None:
    wanted = [{}, *({"lane": f"{n:03}"} for n in range(2 * MOST))]
    made = [
        store.new(requires=requires, priority=-abs(n - MOST)) for n, requires in enumerate(wanted)
    ]
    store.new(queue="other", priority=9)

    order = sorted(made, key=lambda task: (-store.task(task).priority, task))
    found = store.foremost(TaskState.READY, queue="default", limit=9)
    assert order[:9] == [task.id for task in found]
    last, middle = store.task(order[-1]), store.task(order[MOST])
    assert (2 * MOST, MOST) == tuple(store.before(one, limit=1000) for one in (last, middle))
    assert 5 == store.before(last, limit=5)


def test_of_very_many_lanes_one_claim_looks_at_some_and_the_next_at_those_behind_them(
    store: OneByOne,
) -> None:
    """Whatever these hold, the lane of those that need nothing is always among them."""
    given = [{"lane": f"{n:04}"} for n in range(3 * MOST)]
    made = [one.task_id for one in store.submit([new_task(requires=g) for g in given], now=NOW)]
    plain = [store.new(priority=-9) for _ in range(4)]
    reached, lane, calls = [], "", 0
    while True:
        calls += 1
        claims = claim(store, limit=1, labels=given[2 * MOST + 5], lane=lane)
        reached += ids(claims)
        if claims.lane is None:
            break
        lane = claims.lane

    assert 3 == calls
    assert [plain[0], plain[1], made[2 * MOST + 5]] == reached


def test_a_claim_by_hand_looks_at_all_lanes(store: OneByOne) -> None:
    given = [{"lane": f"{n:04}"} for n in range(3 * MOST)]
    made = [one.task_id for one in store.submit([new_task(requires=g) for g in given], now=NOW)]
    by_hand: dict[str, Any] = {"owner": "local:1", "output_dir": "/out", "now": NOW}

    assert store.claim_local("default", **by_hand) is None
    claim = store.claim_local("default", labels=given[-1], **by_hand)
    assert made[-1] == claim.task_id


@pytest.mark.parametrize("text", ["nope", '{"requires": 5}', '{"requires":{"zone":"b"}}', ""])
def test_a_task_in_a_wrong_lane_is_held_by_the_first_who_would_claim_it(
    store: OneByOne, text: str
) -> None:
    wrong, other = store.new(requires=GPU), store.new()
    with store.raw.transaction():
        values = {"id": wrong, "text": text}
        store.raw.engine.change("UPDATE tasks SET lane = :text WHERE id = :id", values)

    assert [other] == ids(claim(store, labels=ZONE))

    found = store.task(wrong)
    assert TaskState.HELD is found.state
    assert found.reason.startswith(f"{DAMAGED}lane: ")
    assert found.reason.endswith(DAMAGE_REMEDY)


def test_a_damaged_lane_counts_as_one_that_needs_nothing(store: OneByOne) -> None:
    task_id = store.new(requires=GPU)
    with store.raw.transaction():
        store.raw.engine.change("UPDATE tasks SET lane = 'nope'")

    assert store.has_unfinished(labels={})
    assert [{}] == [one.requires for one in store.requiring(limit=9)]
    (found,) = store.foremost(TaskState.READY, queue="default", limit=9)
    assert task_id == found.id


def test_a_rank_fits_whatever_was_written_into_the_priority(store: OneByOne) -> None:
    task_id = store.new()
    with store.raw.transaction():
        store.raw.engine.change("UPDATE tasks SET priority = 9223372036854775807")
    task = store.task(task_id)

    assert store.edit(task, replace(task, priority=-(2**62)), now=NOW)
    assert 2**63 - 1 == store.column("rank", task_id)


def test_queues_left_out_and_lanes_of_others_are_not_unfinished(store: OneByOne) -> None:
    store.new(queue="a", requires=GPU)
    store.new(queue="b", delay_ms=5, requires=ZONE)

    assert store.has_unfinished(but=["a"])
    assert not store.has_unfinished(but=["a", "b"])
    assert store.has_unfinished(but=["a"], labels=ZONE)
    assert not store.has_unfinished(but=["a"], labels=GPU)
    assert store.has_unfinished(labels=GPU)


class Order:
    """Ready tasks as a plain list: what a claim ought to take of them."""

    def __init__(self) -> None:
        self.tasks: dict[int, tuple[int, int, int | None, dict[str, str]]] = {}
        """By id: when they were submitted, priority, ageing, and the labels that they require."""

    def first(self, limit: int, labels: dict[str, str] | None = None) -> list[int]:
        fitting = (
            task_id
            for task_id, (_, _, _, requires) in self.tasks.items()
            if labels is None or requires.items() <= labels.items()
        )
        return sorted(fitting, key=self.place)[:limit]

    def place(self, task_id: int) -> tuple[int, int]:
        created_at, priority, ageing_ms, _ = self.tasks[task_id]
        point = 68 * 366 * 86_400 if ageing_ms is None else ageing_ms // 1000
        return created_at // 1000 - priority * point, task_id


NEEDS: list[dict[str, str]] = [{}, {}, GPU, ZONE, {**GPU, **ZONE}, {"gpu": "v100"}]


@pytest.mark.parametrize("seed", range(6))
def test_claims_take_what_a_plain_list_has_first_whatever_tasks_need(
    store: OneByOne, seed: int
) -> None:
    rng, order = random.Random(seed), Order()
    for step in range(60):
        at = later(step * MINUTE + rng.randrange(MINUTE))
        facts: dict[str, Any] = {
            "priority": rng.randint(-2, 2),
            "ageing_ms": rng.choice([None, 3 * MINUTE]) if seed % 2 else 3 * MINUTE,
            "requires": rng.choice(NEEDS),
        }
        for one in store.submit([new_task(**facts)] * rng.randint(1, 3), now=at):
            order.tasks[one.task_id] = (at, *facts.values())
        if not step % 3:
            labels, limit = rng.choice(NEEDS), rng.randint(1, 7)
            claimed = ids(claim(store, limit=limit, labels=labels))
            assert order.first(limit, labels) == claimed
            for task_id in claimed:
                del order.tasks[task_id]
        if order.tasks and not step % 4:
            task = store.task(rng.choice([*order.tasks]))
            changes = {"priority": rng.randint(-2, 2), "requires": rng.choice(NEEDS)}
            assert store.edit(task, replace(task, **changes), now=at)
            created_at, _, ageing_ms, _ = order.tasks[task.id]
            order.tasks[task.id] = (created_at, changes["priority"], ageing_ms, changes["requires"])
        if order.tasks and not step % 5:
            found = store.foremost(TaskState.READY, queue="default", limit=9)
            assert order.first(9) == [task.id for task in found]
            place = rng.randrange(len(order.tasks))
            task = store.task(order.first(place + 1)[-1])
            assert place == store.before(task, limit=1000)


#: The instructions of SQLite's virtual machine that a claim may take.
STEPS = 6_000


@EMBEDDED
@pytest.mark.parametrize("blocked", [50, 2_000])
@pytest.mark.parametrize("labels", [{}, GPU], ids=["plain", "with labels"])
def test_a_claim_takes_as_many_steps_however_many_tasks_it_may_not_claim(
    store: OneByOne, blocked: int, labels: dict[str, str]
) -> None:
    store.submit([new_task(requires=ZONE, priority=9) for _ in range(blocked)], now=NOW)
    made = [store.new(requires=labels) for _ in range(5)]
    steps = [0]
    connection: Any = store.raw.engine.connection

    def step() -> None:
        steps[0] += 1

    connection.set_progress_handler(step, 1)
    try:
        assert made == ids(claim(store, labels=GPU))
    finally:
        connection.set_progress_handler(None, 1)

    assert steps[0] < STEPS


@SHARED
def test_a_claim_that_finds_fewer_than_others_have_locked_is_to_be_repeated(
    store: OneByOne, postgres: Postgres, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        other = OneByOne(Sessions(postgres, tmp_path / "state", stack).open())
        claim_beside_another(store, other)


def claim_beside_another(store: OneByOne, other: OneByOne) -> None:
    first, second, third = (store.new(requires=GPU, priority=n) for n in (3, 2, 1))
    with store.raw.transaction():
        store.sql("SELECT id FROM tasks WHERE id = :id FOR UPDATE", {"id": first})
        claims = claim(other, labels=GPU, limit=2)
        assert ([second], True) == (ids(claims), claims.busy)

    claims = claim(other, labels=GPU, limit=2)
    assert ([first, third], False) == (ids(claims), claims.busy)


@pytest.mark.parametrize("keyed", [False, True], ids=["", "with a key"])
def test_a_task_that_needs_as_much_as_it_may_becomes_ready_and_is_claimed(
    store: OneByOne, keyed: bool
) -> None:
    """On a server a row that is too large for an index would make the whole tick fail."""
    rng = random.Random(7)
    needs: dict[str, Any] = {"requires": {}, "takes": {}}
    while (left := MAX_NEEDS - len(lanes.lane(**needs)) - len('"":"",')) > 40:
        needs["requires"][rng.randbytes(9).hex()] = rng.randbytes(min(100, left - 18) // 2).hex()
        needs["takes"] = {rng.randbytes(40).hex(): 7}
    facts = {"queue": "q" * 100, "concurrency_key": "k" * 255 if keyed else None, **needs}
    task_id: int = store.submit([checked(new_task(delay_ms=5, **facts))], now=NOW)[0].task_id

    assert 1 == store.move_due(limit=1, now=later(5))
    if keyed:
        assert 1 == store.give_keys(limit=1).many
    assert MAX_NEEDS - 50 < len(store.column("lane", task_id)) <= MAX_NEEDS
    assert [task_id] == ids(claim(store, facts["queue"], labels=needs["requires"]))
