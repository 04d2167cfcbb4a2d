"""Choosing tasks for an operator's verb: what matches a filter, and the deletion of some tasks."""

import pytest

from dispatcher.model import FINISHED, Outcome, Pruned, TaskFilter, TaskState
from dispatcher.selection import Match
from dispatcher.store import search
from tests.contract.helpers import OneByOne, later

READY = frozenset({TaskState.READY})


def matched(store: OneByOne, **wanted: object) -> list[int]:
    """Return the ids of the tasks that a filter matches."""
    return [one.id for one in store.matching(TaskFilter(**wanted))]


def cancelled(store: OneByOne, *, at: int, **wanted: object) -> int:
    """Submit a task and cancel it so many milliseconds later; return its id."""
    task_id = store.new(**wanted)
    store.cancel(task_id, "not needed", now=later(at))
    return task_id


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"states": READY},
        {"queue": "q"},
        {"label": ("a", "b")},
        {"profile": "p"},
        {"text": "echo a"},
        {"since": later(1)},
        {"until": later(1)},
        {"after_id": 2, "before_id": 5},
        {"limit": 2},
        {"queue": "q", "states": READY, "label": ("a", "b")},
    ],
    ids=str,
)
def test_a_filter_matches_the_tasks_that_it_lists_the_lowest_id_first(
    store: OneByOne, wanted: dict[str, object]
) -> None:
    store.new(queue="q", labels={"a": "b"})
    store.new(queue="q", command=("echo", "a"), profile="p")
    store.new(labels={"a": "b"}, delay_ms=1)
    store.claimed(queue="q")
    store.finished()

    listed = store.tasks(TaskFilter(**wanted, oldest_first=True))

    expected = [Match(task.id, task.state) for task in listed]
    assert expected == store.matching(TaskFilter(**wanted))


def test_tasks_match_by_the_time_at_which_they_finished(store: OneByOne) -> None:
    first, second = cancelled(store, at=1), cancelled(store, at=5)
    store.new()

    assert [first] == matched(store, finished_before=later(5))
    assert [first, second] == matched(store, finished_before=later(6))
    assert [] == matched(store, finished_before=later(1))


def test_only_the_named_tasks_that_match_are_found_and_no_limit_hides_any(store: OneByOne) -> None:
    first, second, third = store.new(), store.new(queue="q"), store.new(queue="q")
    wanted = TaskFilter(queue="q", limit=1)

    found = store.matching_among([third, second, first, 99], wanted)

    assert [second, third] == [one.id for one in found]
    assert [] == store.matching_among([first], wanted)


def test_matches_are_found_part_by_part_wherever_they_stand(
    store: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WINDOW", 3)
    ids = [store.new(queue="odd" if number % 2 else "even") for number in range(10)]
    odd = TaskFilter(queue="odd")

    everywhere = [one.id for one in search.each_match(store.raw, [odd])]
    parts = [TaskFilter(queue="odd", after_id=low, before_id=low + 3) for low in (1, 6)]
    in_parts = [one.id for one in search.each_match(store.raw, parts)]

    assert ids[1::2] == everywhere
    assert [2, 8] == in_parts


# Prune ---------------------------------------------------------------------------------------


def test_named_tasks_that_match_and_have_finished_are_deleted(store: OneByOne) -> None:
    claim = store.claimed(queue="q")
    store.end(claim)
    other_queue, not_named = store.finished(), store.finished(queue="q")
    waiting, running = store.new(queue="q"), store.claimed(queue="busy").task_id
    named = [claim.task_id, other_queue, waiting, running, 99]

    pruned = store.prune_each(named, TaskFilter(queue="q"), limit=100)

    assert Pruned(1, (claim.output_path,)) == pruned
    assert sorted([other_queue, not_named, waiting, running]) == sorted(store.states())
    assert store.runs(claim.task_id) == []


def test_a_deletion_of_named_tasks_observes_when_they_finished(store: OneByOne) -> None:
    old, young = cancelled(store, at=1), cancelled(store, at=9)
    wanted = TaskFilter(states=FINISHED, finished_before=later(5))

    assert Pruned(1, ()) == store.prune_each([old, young], wanted, limit=100)
    assert [young] == [*store.states()]


def test_r56_named_tasks_are_deleted_in_bounded_steps(store: OneByOne) -> None:
    claim = store.claimed()
    for _ in range(4):
        store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY)
        (claim,) = store.take("own")
    store.end(claim)
    named = [claim.task_id, cancelled(store, at=1), cancelled(store, at=1)]

    steps = [store.prune_each(named, TaskFilter(), limit=2) for _ in range(5)]

    assert [(0, True), (0, True), (1, True), (2, True), (0, False)] == [
        (step.tasks, step.more) for step in steps
    ]
    assert store.states() == {}


def test_r56_long_payloads_of_named_tasks_are_deleted_few_at_a_time(store: OneByOne) -> None:
    long = f'"{"x" * 300_000}"'
    named = [cancelled(store, at=1, payload=long) for _ in range(3)]

    steps = [store.prune_each(named, TaskFilter(), limit=limit) for limit in (10, 2, 2)]

    assert [(2, True), (1, False), (0, False)] == [(step.tasks, step.more) for step in steps]
