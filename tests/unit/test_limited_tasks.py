"""Tasks that take named limits, run by a daemon in virtual time."""

from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher.model import Declared, Outcome, TaskState
from dispatcher.named_limits import Rule, parse_rate
from dispatcher.supervisor.turn import Request
from dispatcher.words import Accepted, Declaration
from tests.recorded_logs import expect_catalogued
from tests.simulation import SETTINGS, World

ONE = {"takes": {"provider": 1}}


def world(rule: Rule | None = None, **changes: Any) -> World:
    limits = {} if rule is None else {"provider": rule}
    return World(settings=replace(SETTINGS, slots=9, limits=limits, **changes)).start()


def running(one: World, tasks: list[int]) -> list[int]:
    return [task for task in tasks if one.state(task) is TaskState.RUNNING]


def close(one: World, milliseconds: int | None = None) -> None:
    with one.store.transaction() as now:
        until = None if milliseconds is None else type(now)(now + milliseconds)
        one.store.close_limit("provider", "why", until=until, now=now)


def declaration(one: World, task: int, seconds: float, **facts: Any) -> Declaration:
    uid = one.uid(task)
    with one.store.snapshot():
        _, lock = one.store.locks_of([uid])[uid]
    given = {"delay_ms": round(seconds * 1000), "reason": "429", **facts}
    return Declaration(task_id=task, lock=lock, word=Declared.DEFER, **given)


def defer(one: World, task: int, seconds: float) -> None:
    """Let the worker of a task close its limit, and exit."""
    answers: list[Any] = []
    message = declaration(one, task, seconds, close="provider")
    one.tick(Request(message, lambda answer, _: answers.append(answer)))
    assert [Accepted()] == answers
    one.gone(task, 75)


def test_a_worker_whose_limit_others_have_locked_tries_again_and_the_tick_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a tick would fail as a whole for as long as a person holds the row."""
    one = world(Rule(concurrency=2))
    tasks = [one.submit(**ONE), one.submit()]
    one.settle_down()
    answers: dict[int, Any] = {}
    messages = [declaration(one, tasks[0], 60, close="provider"), declaration(one, tasks[1], 60)]
    requests = [
        Request(message, lambda answer, _, task=message.task_id: answers.update({task: answer}))
        for message in messages
    ]

    monkeypatch.setattr(one.store, "lock_limits", lambda names: {*names})
    one.tick(*requests)
    assert {tasks[0]: None, tasks[1]: Accepted()} == answers
    with one.store.snapshot():
        assert [None] == [row.closed_at for row in one.store.closings()]

    monkeypatch.undo()
    one.tick(requests[0])
    assert Accepted() == answers[tasks[0]]
    with one.store.snapshot():
        assert [None] != [row.closed_at for row in one.store.closings()]


def test_no_more_run_than_the_limit_and_the_next_follows_an_end() -> None:
    one = world(Rule(concurrency=2))
    tasks = [one.submit(**ONE) for _ in range(4)]
    free = one.submit()
    one.settle_down()
    assert [*tasks[:2], free] == running(one, [*tasks, free])

    one.gone(tasks[0])

    assert tasks[1:3] == running(one, tasks)


def test_a_limit_without_a_number_is_only_ever_closed() -> None:
    one = world(Rule())
    close(one)
    tasks = [one.submit(**ONE) for _ in range(3)]
    one.run_for(100)
    assert [] == running(one, tasks)

    with one.store.transaction() as now:
        one.store.open_limit("provider", now=now)
    one.run_for(0)

    assert tasks == running(one, tasks)


@pytest.mark.parametrize("busy", [False, True], ids=["nothing runs", "something runs"])
def test_a_closed_limit_wakes_the_daemon_when_it_opens_by_itself(busy: bool) -> None:
    """At its time, not at the next poll."""
    one = world(Rule(concurrency=5), poll=50.0, reap_interval=50.0)
    other = [one.submit()] if busy else []
    close(one, 12_345)
    task = one.submit(**ONE)
    one.settle_down()
    assert other == running(one, [*other, task])

    one.run_for(12.344)
    assert [] == running(one, [task])
    one.run_for(0.001)
    assert [task] == running(one, [task])


def test_a_rate_starts_the_next_when_the_first_start_leaves_the_window() -> None:
    one = world(Rule(rate=parse_rate("2/10s")), poll=50.0, reap_interval=50.0)
    tasks = [one.submit(**ONE) for _ in range(5)]
    one.settle_down()
    one.run_for(9.999)
    assert tasks[:2] == running(one, tasks)

    one.run_for(0.001)
    assert tasks[:4] == running(one, tasks)
    one.run_for(10)
    assert tasks == running(one, tasks)


def test_a_usage_limit_of_a_provider_costs_one_run_each_time_not_one_for_each_task() -> None:
    """200 tasks behind a limit that closes twice: 2 deferrals in all."""
    one = world(Rule(concurrency=1))
    tasks = [one.submit(**ONE) for _ in range(200)]
    one.settle_down()
    ended = 0
    while left := running(one, tasks):
        (task,) = left
        if ended in {50, 120} and not one.task(task).deferrals:
            with capture_logs() as logs:
                defer(one, task, seconds=3600)
            expect_catalogued(logs)
            assert "limit.closed" in {line["event"] for line in logs}
            one.run_for(3599)
            assert [] == running(one, tasks), "a closed limit lets nothing through"
            one.run_for(2)
        else:
            one.gone(task)
        ended += 1

    found = [one.task(task) for task in tasks]
    assert {TaskState.SUCCEEDED} == {task.state for task in found}
    assert 2 == sum(task.deferrals for task in found)
    assert 202 == sum(len(one.runs(task)) for task in tasks)
    assert 0 == sum(task.attempts_used for task in found)


def test_a_restarted_daemon_counts_what_runs() -> None:
    one = world(Rule(concurrency=2))
    tasks = [one.submit(**ONE) for _ in range(4)]
    one.settle_down()

    one.restart()
    one.run_for(5)
    assert tasks[:2] == running(one, tasks)
    one.gone(tasks[1])

    assert [tasks[0], tasks[2]] == running(one, tasks)


def test_a_limit_that_a_reload_lowers_or_removes_holds_from_the_next_claim() -> None:
    one = world(Rule(concurrency=3))
    tasks = [one.submit(**ONE) for _ in range(6)]
    one.settle_down()
    one.supervisor.reconfigure(replace(SETTINGS, slots=9, limits={"provider": Rule(concurrency=2)}))
    one.gone(tasks[0])
    assert tasks[1:3] == running(one, tasks)

    one.supervisor.reconfigure(replace(SETTINGS, slots=9))
    one.run_for(2)

    assert tasks[1:] == running(one, tasks)


def test_a_deferral_that_closes_nothing_is_as_before() -> None:
    one = world(Rule(concurrency=1))
    tasks = [one.submit(**ONE) for _ in range(2)]
    one.settle_down()

    one.gone(tasks[0], 75)

    assert tasks[1:] == running(one, tasks)
    assert Outcome.DEFERRED is one.runs(tasks[0])[0].outcome


def test_tasks_of_a_concurrency_key_run_one_after_the_other_without_a_poll() -> None:
    one = world(poll=50.0, reap_interval=50.0)
    tasks = [one.submit(concurrency_key="k") for _ in range(3)]
    free = one.submit(concurrency_key="other")
    one.settle_down()
    assert [tasks[0], free] == running(one, [*tasks, free])

    for before, after in pairwise(tasks):
        one.gone(before)
        assert [after] == running(one, tasks)


def test_a_task_in_its_back_off_does_not_keep_its_key() -> None:
    one = world(poll=50.0, reap_interval=50.0)
    tasks = [one.submit(concurrency_key="k") for _ in range(2)]
    one.settle_down()

    one.gone(tasks[0], 1)
    assert TaskState.SCHEDULED is one.state(tasks[0])
    assert tasks[1:] == running(one, tasks)
    one.run_for(3600)
    assert tasks[1:] == running(one, tasks), "it is due, and the other one has the key"

    one.gone(tasks[1])
    assert tasks[:1] == running(one, tasks)
