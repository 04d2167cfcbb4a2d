"""The tasks that a person looks for first."""

from typing import Any

import pytest

from dispatcher.model import Outcome, TaskFilter, TaskState
from dispatcher.store import glance as looks
from dispatcher.store.glance import Glance, glance, search
from dispatcher.words import Beat
from tests.contract.helpers import OneByOne, later, new_task


def ids(found: Glance) -> list[int]:
    return [seen.task.id for seen in found.seen]


def failed(store: OneByOne, at: int, **wanted: Any) -> int:
    """Return a task that failed at a time."""
    claim = store.claimed(**wanted)
    store.end(claim, now=later(at), outcome=Outcome.FAILED, state=TaskState.FAILED)
    return int(claim.task_id)


def held(store: OneByOne, **wanted: Any) -> int:
    task = store.new(**wanted)
    store.hold(task, "disk is full", now=later(0))
    return task


def test_the_last_run_has_its_current_beats_and_not_the_end_of_its_output(store: OneByOne) -> None:
    first = store.claimed()
    assert store.last_run(first.task_id).uid == first.run_uid
    store.end(first, outcome=Outcome.FAILED, state=TaskState.READY, output_tail="the end")
    assert (Outcome.FAILED, None) == (
        store.last_run(first.task_id).outcome,
        store.last_run(first.task_id).output_tail,
    )

    (second,) = store.take("own")
    beat = Beat(task_id=second.task_id, lock=second.lock, progress=0.5, note="half")
    store.heartbeat([beat], now=later(7))

    last = store.last_run(second.task_id)
    assert (second.run_uid, None, 0.5, "half", later(7)) == (
        *(last.uid, last.outcome, last.progress, last.note, last.last_heartbeat_at),
    )
    assert store.last_run(99) is None


def test_each_state_comes_in_its_own_order(store: OneByOne) -> None:
    first, urgent, second = (store.new(queue="a", priority=number) for number in (0, 5, 0))
    late, soon = store.new(queue="a", delay_ms=900), store.new(queue="b", delay_ms=5)
    early_end, late_end = failed(store, 20), failed(store, 10)
    parked = [held(store, queue="a") for _ in range(2)]

    def of(state: TaskState, **wanted: Any) -> list[int]:
        return [task.id for task in store.foremost(state, **{"limit": 9, **wanted})]

    assert [urgent, first, second] == of(TaskState.READY, queue="a")
    assert [urgent] == of(TaskState.READY, queue="a", limit=1)
    assert [soon, late] == of(TaskState.SCHEDULED)
    assert [late] == of(TaskState.SCHEDULED, queue="a")
    assert [early_end, late_end] == of(TaskState.FAILED)
    assert [late_end, early_end] == of(TaskState.FAILED, queue="own")
    assert parked[::-1] == of(TaskState.HELD, queue="a")
    running = store.claimed(queue="c").task_id
    assert [running] == of(TaskState.RUNNING)
    assert [running] == of(TaskState.RUNNING, queue="c")
    assert of(TaskState.RUNNING, queue="a") == []


def test_the_ready_tasks_before_one_are_counted_by_priority_and_id_to_a_limit(
    store: OneByOne,
) -> None:
    first = store.new(queue="a")
    last = store.new(queue="a", priority=-1)
    store.new(queue="a")
    store.new(queue="a", priority=3)
    store.new(queue="b", priority=9)
    store.new(queue="a", priority=9, delay_ms=1)

    assert 1 == store.before(store.task(first), limit=10)
    assert 3 == store.before(store.task(last), limit=10)
    assert 2 == store.before(store.task(last), limit=2)


def test_running_tasks_are_first_then_those_that_need_a_person_then_waiting_then_finished(
    store: OneByOne,
) -> None:
    over = [store.finished(now=later(5)), store.finished(now=later(9))]
    broken = failed(store, 7)
    scheduled, ready = store.new(delay_ms=1), store.new()
    parked = held(store, queue="p")
    running = store.claimed().task_id

    found = glance(store.raw)

    assert [running, parked, broken, ready, scheduled, over[1], over[0]] == ids(found)
    assert found.counts[TaskState.SUCCEEDED] == 2
    assert [ready] == ids(glance(store.raw, states={TaskState.READY}))
    assert [parked] == ids(glance(store.raw, queue="p"))
    also_broken = failed(store, -1, queue="p")
    assert [also_broken] == ids(glance(store.raw, queue="p", states={TaskState.FAILED}))
    assert [running, broken, *over[::-1]] == ids(glance(store.raw, queue="own"))


def test_queues_take_turns_in_a_glance_as_they_do_in_claims(store: OneByOne) -> None:
    first = [store.new(queue="a") for _ in range(12)]
    second = [store.new(queue="b") for _ in range(2)]

    found = glance(store.raw)

    assert [first[0], second[0], first[1], second[1], *first[2:8]] == ids(found)
    assert [0, 0, 1, 1, 2] == [seen.before for seen in found.seen[:5]]
    assert 14 == found.counts[TaskState.READY]


def test_small_groups_are_whole_and_large_ones_share_the_rest(store: OneByOne) -> None:
    running = store.claimed().task_id
    broken = [failed(store, number) for number in range(30)]
    ready = [store.new() for _ in range(30)]

    whole = [running, *broken[:-21:-1], *ready[:10]]
    assert whole == ids(glance(store.raw))
    assert [running, *broken[:-6:-1], *ready[:4]] == ids(glance(store.raw, limit=10))
    assert ids(glance(store.raw, room=10)) == ids(glance(store.raw, limit=10))
    assert [running, *broken[::-1], *ready] == ids(glance(store.raw, limit=61))
    assert [running] == ids(glance(store.raw, limit=1))


def test_held_tasks_keep_rows_before_later_failures(store: OneByOne) -> None:
    parked = [held(store, queue="p") for _ in range(5)]
    broken = [failed(store, number) for number in range(1, 11)]

    room = glance(store.raw, room=8)
    assert [*parked[:-5:-1], *broken[:-5:-1]] == ids(room)
    assert [*parked[::-1], *broken[::-1]] == ids(search(store.raw, TaskFilter(since=later(0))))


def test_a_search_shows_its_newest_matches_in_the_same_order(
    store: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = store.claimed(labels={"a": "b"}).task_id
    ready = [store.new(labels={"a": "b"}) for _ in range(12)]
    failed(store, 1)
    broken = failed(store, 2, labels={"a": "b"})
    wanted = TaskFilter(label=("a", "b"))

    found = search(store.raw, wanted)

    assert [running, broken, *ready[:10]] == ids(found)
    assert (True, 12) == (found.is_all, found.counts[TaskState.READY])
    assert [running, broken, ready[0]] == ids(search(store.raw, wanted, limit=3))
    monkeypatch.setattr(looks, "SEARCHED", 3)
    newest = search(store.raw, wanted)
    assert [broken, *ready[-2:]] == ids(newest)
    assert not newest.is_all


def test_a_task_that_is_pruned_meanwhile_is_left_out(store: OneByOne) -> None:
    assert ids(glance(store.raw)) == ids(search(store.raw, TaskFilter(text="x"))) == []
    gone = failed(store, 1)
    store.submit([new_task()], now=later(1))

    with store.raw.transaction():
        store.sql("DELETE FROM tasks WHERE id = :id", {"id": gone})

    assert [gone + 1] == ids(search(store.raw, TaskFilter(since=later(0))))
