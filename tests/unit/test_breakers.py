"""Breakers of queues: what a claim does with one, and what becomes of the tasks behind it."""

from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.breakers import Decision, Health, decide
from dispatcher.events import EventKind, Ledger
from dispatcher.model import Outcome, TaskState
from dispatcher.named_limits import Breaker, Closing, Rule, of_queue, parse_breaker
from dispatcher.obstacles import Obstacle
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import StoreTime
from tests.simulation import SETTINGS, World
from tests.unit.test_obstacles import standing_of

NOW = StoreTime(1_700_000_000_000)
FIVE = parse_breaker("5 in 10m", Milliseconds(60_000))
OPEN = Closing(name="queue:q")
CLOSED = Closing(name="queue:q", closed_at=NOW, closed_until=StoreTime(NOW + 60_000), probe="")
LATER = StoreTime(NOW + 60_000)

OPENS = Decision(None, "open", "a run of the queue has succeeded")


def closes(reason: str) -> Decision:
    """Return that a probe failed at `LATER`."""
    return Decision(0, "close", reason, opens_at=StoreTime(LATER + 60_000))


def health(**facts: Any) -> Health:
    return Health(**{"running": 0, "failures": 0, "succeeded_at": None, **facts})


def test_a_breaker_is_a_number_in_a_time() -> None:
    assert (5, 600_000, 60_000) == (FIVE.many, FIVE.window_ms, FIVE.cooldown_ms)
    assert "5 in 10m" == str(FIVE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "is not a breaker; write for example"),
        ("0 in 10m", "0 failures are not from 1"),
        ("5 in 0s", "is not from 1ms to 30d"),
        ("5 in a while", "a while"),
    ],
)
def test_another_breaker_is_refused_with_the_remedy(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_breaker(text)


@pytest.mark.parametrize(
    ("facts", "room"),
    [
        ({"succeeded_at": NOW}, None),
        ({"succeeded_at": NOW, "failures": 4, "running": 99}, None),
        ({}, 5),
        ({"running": 3}, 2),
        ({"running": 3, "failures": 1}, 1),
        ({"running": 9}, 0),
    ],
    ids=str,
)
def test_a_queue_that_has_not_succeeded_runs_no_more_than_may_still_fail(
    facts: dict[str, Any], room: int | None
) -> None:
    assert Decision(room) == decide(FIVE, OPEN, health(**facts), NOW)


def test_so_many_failures_close_it() -> None:
    found = decide(FIVE, OPEN, health(failures=5, running=1), NOW)

    reason = "5 failures within 10m, and no success"
    assert Decision(0, "close", reason, opens_at=LATER) == found


@pytest.mark.parametrize(
    ("facts", "now", "found"),
    [
        ({}, NOW, Decision(0)),
        ({}, LATER, Decision(1, is_probe=True)),
        ({"succeeded_at": StoreTime(NOW + 1)}, NOW, OPENS),
        ({"succeeded_at": NOW}, NOW, Decision(0)),
    ],
    ids=str,
)
def test_a_closed_one_lets_a_probe_start_after_its_cool_down_or_opens_by_a_success(
    facts: dict[str, Any], now: StoreTime, found: Decision
) -> None:
    assert found == decide(FIVE, CLOSED, health(failures=5, **facts), now)


@pytest.mark.parametrize(
    ("probe", "found"),
    [
        ("open", Decision(0)),
        (None, Decision(1, is_probe=True)),
        (Outcome.SUCCEEDED, OPENS),
        (Outcome.FAILED, closes("its probe failed, too: failed")),
        (Outcome.TIMED_OUT, closes("its probe failed, too: timed_out")),
        (Outcome.DEFERRED, Decision(1, "forget the probe", is_probe=True)),
        (Outcome.RELEASED, Decision(1, "forget the probe", is_probe=True)),
    ],
    ids=str,
)
def test_a_probe_decides(probe: Any, found: Decision) -> None:
    closing = replace(CLOSED, probe="uid")

    assert found == decide(FIVE, closing, health(failures=5, probe=probe), LATER)


def test_one_that_a_person_closed_has_no_probe() -> None:
    closing = replace(CLOSED, probe=None)

    assert Decision(0) == decide(FIVE, closing, health(), LATER)


# In virtual time -----------------------------------------------------------------------------


def world(breaker: Breaker = FIVE, **changes: Any) -> World:
    limits = {of_queue("q"): Rule(breaker=breaker)}
    return World(settings=replace(SETTINGS, slots=50, limits=limits, **changes)).start()


def running(one: World, tasks: list[int]) -> list[int]:
    return [task for task in tasks if one.state(task) is TaskState.RUNNING]


def happened(one: World) -> list[str]:
    with one.store.snapshot():
        found = one.store.last_events(Ledger.EVENTS, before=10**9, limit=1000)
    kinds = {EventKind.LIMIT_CLOSED, EventKind.LIMIT_OPENED}
    return [str(event.reason) for event in reversed(found) if event.kind in kinds]


def test_r42_a_broken_command_costs_no_more_failures_than_its_breaker_allows() -> None:
    """100 tasks: the others keep their budgets. A probe finds when it is mended."""
    one = world(poll=5000.0, reap_interval=5000.0)
    tasks = [one.submit(queue="q") for _ in range(100)]
    other = one.submit()
    one.settle_down()
    assert tasks[:5] == running(one, tasks), "until one has succeeded, no more run than may fail"
    assert [other] == running(one, [other])
    for task in tasks[:5]:
        one.gone(task, 1)

    one.run_for(59)
    assert [] == running(one, tasks)
    assert 5 == sum(one.task(task).attempts_used for task in tasks)
    (first, *_) = standing_of(one).obstacles(one.task(tasks[50]))
    assert Obstacle.LIMIT_CLOSED is first.obstacle
    assert "limit queue:q is closed since" in first.text
    assert "until a probe succeeds: 5 failures within 10m, and no success" in first.text

    one.run_for(2)
    (probe,) = running(one, tasks)
    one.gone(probe, 1)
    one.run_for(59)
    assert [] == running(one, tasks)
    assert 6 == sum(one.task(task).attempts_used for task in tasks)

    one.run_for(2)
    (probe,) = running(one, tasks)
    one.run_for(600)
    assert [probe] == running(one, tasks), "a probe that runs is the only one"
    one.gone(probe)
    assert 50 == len(running(one, [*tasks, other])), "as many as there are slots"
    assert [
        "5 failures within 10m, and no success",
        "its probe failed, too: failed",
        "a run of the queue has succeeded",
    ] == happened(one)


def test_failures_between_successes_close_nothing() -> None:
    one = world()
    for number in range(30):
        task = one.submit(queue="q", max_attempts=1)
        one.settle_down()
        one.gone(task, 0 if number % 5 == 4 else 1)

    assert [] == happened(one)


def test_failures_that_are_older_than_the_window_count_no_more() -> None:
    one = world()
    for _ in range(20):
        task = one.submit(queue="q", max_attempts=1)
        one.settle_down()
        one.gone(task, 1)
        one.run_for(151)

    assert [] == happened(one)


def test_what_costs_no_attempt_counts_not() -> None:
    one = world()
    for _ in range(10):
        task = one.submit(queue="q")
        one.settle_down()
        one.gone(task, 75)

    assert [] == happened(one)


def test_an_operator_opens_it_and_earlier_failures_are_forgiven() -> None:
    one = world()
    tasks = [one.submit(queue="q") for _ in range(20)]
    one.settle_down()
    for task in tasks[:5]:
        one.gone(task, 1)
    one.run_for(1)
    assert [] == running(one, tasks)

    with one.store.transaction() as now:
        assert one.store.open_limit("queue:q", now=now)
    one.run_for(0)

    assert 5 == len(running(one, tasks))


def test_a_probe_that_ends_without_a_verdict_is_followed_by_another() -> None:
    one = world()
    tasks = [one.submit(queue="q") for _ in range(20)]
    one.settle_down()
    for task in tasks[:5]:
        one.gone(task, 1)
    one.run_for(61)
    (probe,) = running(one, tasks)

    one.gone(probe, 75)

    (another,) = running(one, tasks)
    assert another != probe


def test_a_restarted_daemon_goes_on_with_the_breaker() -> None:
    one = world()
    tasks = [one.submit(queue="q") for _ in range(20)]
    one.settle_down()
    for task in tasks[:5]:
        one.gone(task, 1)
    one.restart()
    one.run_for(58)
    assert [] == running(one, tasks)

    one.run_for(5)
    assert 1 == len(running(one, tasks))
