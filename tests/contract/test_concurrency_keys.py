"""Concurrency keys: of the tasks of a queue with the same one, one at a time is claimed or runs."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.execution import Claim
from dispatcher.model import Outcome, TaskState
from dispatcher.named_limits import Rule
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NODE, NOW, SHARED, OneByOne, later, settlement

S = TaskState
K: dict[str, Any] = {"concurrency_key": "k"}


def claim(store: OneByOne, queue: str = "default", **wanted: Any) -> list[Claim]:
    """Give free keys away, as a tick does, and claim."""
    if store.next_due_or_keys()[1]:
        store.give_keys(limit=100)
    given = {"limit": 10, "node": NODE, "output_dir": "/out", "now": NOW, **wanted}
    found: list[Claim] = store.claim(queue, **given)
    return found


def claimed(store: OneByOne, queue: str = "default", **wanted: Any) -> list[int]:
    return [one.task_id for one in claim(store, queue, **wanted)]


def test_one_task_of_a_key_runs_at_a_time_and_the_next_follows_it(store: OneByOne) -> None:
    tasks = [store.new(**K) for _ in range(3)]
    other, free = store.new(concurrency_key="other"), store.new()

    (first, *rest) = claim(store)
    assert [tasks[0], other, free] == [first.task_id, *(one.task_id for one in rest)]
    assert [] == claimed(store)

    store.end(first)
    assert [tasks[1]] == claimed(store)
    assert first.task_id not in store.states() or S.READY is store.states()[tasks[2]]


def test_a_key_is_of_its_queue(store: OneByOne) -> None:
    tasks = [store.new(queue=queue, **K) for queue in ("a", "b")]

    assert tasks == [*claimed(store, "a"), *claimed(store, "b")]


def test_the_next_of_a_key_is_the_first_in_the_order_of_its_queue(store: OneByOne) -> None:
    first, _low, high = store.new(**K), store.new(**K), store.new(priority=5, **K)
    (running,) = claim(store, limit=1)
    assert high == running.task_id, "as all were submitted before a key was given"

    store.end(running)

    assert [first] == claimed(store)


#: What sets a key free: of the task that has it, ready or running.
FREES: dict[str, Any] = {
    "cancel": lambda store, task: store.cancel(task, "why", now=NOW),
    "hold": lambda store, task: store.hold(task, "why", now=NOW),
    "time-out": lambda store, _: store.give_up(limit=9, now=later(6)),
    "another queue": lambda store, task: edited(store, task, queue="other"),
    "delayed": lambda store, task: edited(
        store, task, state=S.SCHEDULED, run_at=later(99), reason="later"
    ),
}


def edited(store: OneByOne, task_id: int, **changes: Any) -> None:
    before = store.task(task_id)
    assert store.edit(before, replace(before, **changes), now=NOW)


@pytest.mark.parametrize("what", FREES)
def test_a_task_that_leaves_ready_leaves_its_key(store: OneByOne, what: str) -> None:
    first = store.new(queue_timeout_ms=5 if what == "time-out" else None, **K)
    store.give_keys(limit=9)
    second = store.new(**K)
    store.give_keys(limit=9)
    assert first == store.task(second).key_holder

    FREES[what](store, first)

    assert [second] == claimed(store, now=later(6))


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.SUCCEEDED, S.SUCCEEDED),
        (Outcome.FAILED, S.FAILED),
        (Outcome.FAILED, S.SCHEDULED),
        (Outcome.HELD, S.HELD),
        (Outcome.CANCELLED, S.CANCELLED),
    ],
    ids=str,
)
def test_held_scheduled_and_finished_tasks_block_nobody(
    store: OneByOne, outcome: Outcome, state: TaskState
) -> None:
    store.new(**K)
    (running,) = claim(store)
    second = store.new(**K)

    run_at = later(10**6) if state is S.SCHEDULED else None
    store.end(running, outcome=outcome, state=state, run_at=run_at)

    assert [second] == claimed(store)


def test_a_task_that_is_ready_again_waits_for_its_key(store: OneByOne) -> None:
    first = store.new(**K)
    (running,) = claim(store)
    second = store.new(**K)
    store.end(running, outcome=Outcome.HELD, state=S.HELD)
    (theirs,) = claim(store)
    assert second == theirs.task_id

    store.release(first, now=NOW)
    assert [] == claimed(store)
    assert second == store.task(first).key_holder

    store.end(theirs)
    assert [first] == claimed(store)


def test_a_run_that_was_released_runs_again_before_those_behind_it(store: OneByOne) -> None:
    first = store.new(**K)
    (running,) = claim(store)
    store.new(**K)

    store.end(running, outcome=Outcome.RELEASED, state=S.READY)

    assert [first] == claimed(store)


def test_a_task_with_a_key_needs_its_labels_and_limits_too(store: OneByOne) -> None:
    store.add_limits(["provider"])
    task = store.new(requires={"gpu": "a"}, takes={"provider": 1}, **K)
    limits = {"provider": Rule(concurrency=1)}

    assert [] == claimed(store, limits=limits)
    assert [] == claimed(store, labels={"gpu": "b"}, limits=limits)
    assert [task] == claimed(store, labels={"gpu": "a"}, limits=limits)


def test_a_child_with_a_key_gets_it_once_its_parents_have_finished(store: OneByOne) -> None:
    parent = store.new()
    child = store.new(after=(parent,), **K)
    (running,) = claim(store)
    other = store.new(**K)
    store.end(running)
    (first,) = claim(store)
    assert other == first.task_id

    store.resolve(limit=9, now=NOW)
    assert [] == claimed(store)
    store.end(first)

    assert [child] == claimed(store)


def test_a_local_claim_by_id_takes_no_task_that_waits_for_its_key(store: OneByOne) -> None:
    first, second = store.new(**K), store.new(**K)
    store.give_keys(limit=9)
    given = {"owner": "local:1", "output_dir": "/o", "now": NOW}

    assert store.claim_local("default", task_id=second, **given) is None
    assert first == store.claim_local("default", task_id=first, **given).task_id


def test_what_waits_for_keys_is_counted_apart(store: OneByOne) -> None:
    for _ in range(4):
        store.new(**K)
    store.give_keys(limit=9)

    (group,) = store.requiring(limit=9)

    assert (True, 3) == (group.behind, group.tasks)


def test_no_task_is_deleted_before_its_key_is_given_away(store: OneByOne) -> None:
    store.new(**K)
    (running,) = claim(store)
    second = store.new(**K)
    store.give_keys(limit=9)
    store.end(running)

    assert 0 == store.prune(before=later(10), limit=9).tasks
    assert [second] == claimed(store)
    assert 1 == store.prune(before=later(10), limit=9).tasks


def test_keys_are_given_in_bounded_steps(store: OneByOne) -> None:
    for number in range(7):
        store.new(concurrency_key=f"k{number}")

    steps = [store.give_keys(limit=3) for _ in range(4)]

    assert [(3, True), (3, True), (1, False), (0, False)] == [(g.many, g.more) for g in steps]
    assert 7 == len(claimed(store))


def test_nothing_is_due_once_all_keys_are_given(store: OneByOne) -> None:
    assert (None, False) == store.next_due_or_keys()
    store.new(**K)
    assert (None, True) == store.next_due_or_keys()
    assert NOW >= store.next_work("another", now=NOW)

    store.give_keys(limit=9)

    assert (None, False) == store.next_due_or_keys()


def test_only_one_task_of_a_key_can_have_it_whatever_a_statement_says(store: OneByOne) -> None:
    for _ in range(2):
        store.new(**K)
    store.give_keys(limit=9)

    with pytest.raises(Exception, match=r"(?i)unique|tasks_key_holders"), store.raw.transaction():
        store.sql("UPDATE tasks SET lane = '' RETURNING id")


@SHARED
def test_keys_of_which_another_node_decides_are_looked_at_a_moment_later(
    store: OneByOne, raw: SqlStore, url: str, tmp_path: Path
) -> None:
    other = open_store(url, state_dir=tmp_path / "other", patience=5.0)
    store.new(**K)
    store.give_keys(limit=9)
    store.new(concurrency_key="x")
    with raw.transaction(), other.transaction():
        raw.give_keys(limit=9)
        assert other.give_keys(limit=9).busy
    other.close()


@SHARED
def test_r93_three_nodes_at_once_never_run_two_tasks_of_a_key(
    store: OneByOne, url: str, tmp_path: Path
) -> None:
    for number in range(60):
        store.new(concurrency_key=f"k{number % 4}")
    spans: list[tuple[float, float, str]] = []

    def work(number: int) -> None:
        mine = open_store(url, state_dir=tmp_path / str(number), patience=5.0)
        for _ in range(2_000):
            with mine.transaction() as now:
                if mine.next_due_or_keys()[1]:
                    mine.give_keys(limit=100)
                given = {"node": f"node-{number}", "output_dir": "/o", "now": now}
                made = mine.claim("default", limit=2, **given)
            begun = time.perf_counter()
            with mine.snapshot():
                tasks = [mine.task(one.task_id) for one in made]
            ended = time.perf_counter()
            spans.extend((begun, ended, str(one.concurrency_key)) for one in tasks if one)
            with mine.transaction() as now:
                mine.settle([settlement(one, ended_at=now) for one in made], now=now)
            if {S.SUCCEEDED} == set(store_states(mine)):
                break
        mine.close()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(3)))

    assert {S.SUCCEEDED} == set(store.states().values())
    assert 60 == len(spans)
    for key in {one[2] for one in spans}:
        mine = sorted(one[:2] for one in spans if one[2] == key)
        assert all(before[1] <= after[0] for before, after in pairwise(mine))


def store_states(store: Any) -> set[TaskState]:
    with store.snapshot():
        return {state for counts in store.counts().values() for state in counts}
