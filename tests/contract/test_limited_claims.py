"""Claims of tasks that take named limits."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dispatcher.events import EventKind, Ledger
from dispatcher.execution import Claims
from dispatcher.model import Outcome, TaskState
from dispatcher.named_limits import Rate, Rule
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.api import Store
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NODE, NOW, SHARED, OneByOne, later, on_all, settlement

ONE: dict[str, Any] = {"takes": {"provider": 1}}


def rules(concurrency: int | None = None, rate: tuple[int, int] | None = None) -> dict[str, Rule]:
    rated = None if rate is None else Rate(rate[0], Milliseconds(rate[1]))
    return {"provider": Rule(concurrency=concurrency, rate=rated)}


def claim(store: OneByOne, queue: str = "default", **wanted: Any) -> Claims:
    given = {"limit": 10, "node": NODE, "output_dir": "/out", "now": NOW, **wanted}
    found: Claims = store.claim(queue, **given)
    return found


def claimed(store: OneByOne, queue: str = "default", **wanted: Any) -> list[int]:
    return [one.task_id for one in claim(store, queue, **wanted)]


@pytest.fixture(autouse=True)
def prepared(store: OneByOne) -> None:
    store.add_limits(["provider", "gpu"])


def test_r44_no_more_of_a_limit_is_held_than_it_allows_and_the_next_follows_an_end(
    store: OneByOne,
) -> None:
    tasks = [store.new(**ONE) for _ in range(4)]
    others = [store.new() for _ in range(2)]

    first = claim(store, limits=rules(2))
    assert [*tasks[:2], *others] == sorted(one.task_id for one in first)
    assert [] == claimed(store, limits=rules(2))

    store.end(next(one for one in first if one.task_id == tasks[0]))
    assert tasks[2:3] == claimed(store, limits=rules(2))


def test_a_limit_counts_what_tasks_of_all_queues_and_lanes_take_together(store: OneByOne) -> None:
    both = store.new(takes={"provider": 1, "gpu": 1})
    labelled = store.new(requires={"zone": "a"}, **ONE)
    plain = [store.new(**ONE) for _ in range(3)]
    other = store.new(queue="other", **ONE)
    given = {"limits": {**rules(3), "gpu": Rule(concurrency=1)}, "labels": {"zone": "a"}}

    assert [both, labelled, plain[0]] == sorted(claimed(store, **given))
    assert [] == claimed(store, "other", **given)

    given["limits"] = {**rules(4), "gpu": Rule(concurrency=1)}
    assert [other] == claimed(store, "other", **given)


def test_the_order_of_a_queue_holds_across_lanes_of_one_limit(store: OneByOne) -> None:
    low = store.new(priority=1, **ONE)
    high = store.new(priority=9, takes={"provider": 1, "gpu": 1})
    middle = store.new(priority=5, **ONE)

    assert [high, middle] == claimed(store, limits=rules(2))
    assert TaskState.READY is store.states()[low]


def test_a_task_takes_as_much_as_it_says(store: OneByOne) -> None:
    two, one, again = (store.new(takes={"provider": many}) for many in (2, 1, 2))

    assert [two, one] == claimed(store, limits=rules(4)), "of 4 one is left, and it needs two"
    assert [again] == claimed(store, limits=rules(5))


def test_a_task_that_takes_much_starts_in_its_turn(store: OneByOne) -> None:
    first = claim_of(store, store.new(**ONE))
    much = store.new(takes={"provider": 3})
    behind = store.new(**ONE)

    assert [] == claimed(store, limits=rules(3)), "what is left is kept for it"
    store.end(first)

    assert [much] == claimed(store, limits=rules(3))
    assert [behind] == claimed(store, limits=rules(4))


@pytest.mark.parametrize("limit", [rules(3), rules(rate=(3, 100))], ids=["concurrency", "rate"])
def test_r47_a_task_that_needs_more_than_is_ever_allowed_keeps_nothing_from_others(
    store: OneByOne, limit: dict[str, Rule]
) -> None:
    """As after a reload that lowers the limit."""
    much, behind = store.new(takes={"provider": 5}), store.new(**ONE)

    assert [behind] == claimed(store, limits=limit)
    assert TaskState.READY is store.states()[much]


@pytest.mark.parametrize("by_hand", [False, True], ids=["daemon", "local claim"])
def test_a_limit_whose_row_is_not_there_holds_and_keeps_nobody_waiting(
    store: OneByOne, by_hand: bool
) -> None:
    """No daemon has claimed with it, or a failover forgot its row."""
    with store.raw.transaction():
        store.sql("DELETE FROM limits RETURNING name")
    tasks = [store.new(**ONE) for _ in range(2)]

    if by_hand:
        assert tasks[0] == local(store, limits=rules(1))
    else:
        found = claim(store, limits=rules(1))
        assert (tasks[:1], False) == ([one.task_id for one in found], found.busy)
    assert [] == claimed(store, limits=rules(1))


def claim_of(store: OneByOne, task_id: int) -> Any:
    (found,) = claim(store)
    assert task_id == found.task_id
    return found


def test_r47_a_blocked_task_consumes_nothing(store: OneByOne) -> None:
    store.close_limit("gpu", "why", now=NOW)
    for _ in range(20):
        store.new(priority=9, takes={"provider": 1, "gpu": 1})
    tasks = [store.new(**ONE) for _ in range(2)]

    assert tasks == claimed(store, limit=3, limits={**rules(2), "gpu": Rule(concurrency=9)})


def test_a_closed_limit_lets_nothing_through_until_it_is_opened(store: OneByOne) -> None:
    task, other = store.new(**ONE), store.new()
    store.close_limit("provider", "why", now=NOW)

    assert [other] == claimed(store, limits=rules(2), now=later(10**9))
    store.open_limit("provider", now=NOW)

    assert [task] == claimed(store, limits=rules(2))


@pytest.mark.parametrize("known", [True, False], ids=["configured", "not configured"])
def test_a_closed_limit_opens_by_itself_and_a_claim_says_when(store: OneByOne, known: bool) -> None:
    task = store.new(**ONE)
    given = {"limits": rules(2) if known else {}}
    store.close_limit("provider", "why", until=later(50), now=NOW)

    blocked = claim(store, now=later(49), **given)
    assert ([], later(50)) == ([*blocked], blocked.opens_at)
    assert [task] == claimed(store, now=later(50), **given)

    (opened, *_) = store.last_events(Ledger.EVENTS, before=10**9, limit=1)
    assert (EventKind.LIMIT_OPENED, "provider", "its time is over") == (
        opened.kind,
        opened.subject,
        opened.reason,
    )
    assert [None] == [one.closed_at for one in store.closings() if one.name == "provider"]


def test_a_limit_that_is_not_configured_limits_nothing(store: OneByOne) -> None:
    tasks = [store.new(takes={"gone": 7}) for _ in range(3)]

    assert tasks == claimed(store)


def test_a_run_that_another_node_takes_over_holds_its_limit_until_it_is_settled(
    store: OneByOne,
) -> None:
    """What is held follows from what runs: nothing has to be given back."""
    (lost,) = claim(store, until=later(5), limits=rules(1)) if store.new(**ONE) else ()
    task = store.new(**ONE)
    assert [] == claimed(store, limits=rules(1), now=later(10**6))

    facts = {"outcome": Outcome.ORPHANED, "state": TaskState.READY}
    with store.raw.transaction():
        assert store.raw.settle([settlement(lost, **facts)], now=later(10**6))

    assert [lost.task_id] == claimed(store, limits=rules(1), now=later(10**6))
    assert [task] == claimed(store, limits=rules(2), now=later(10**6))


# Rates ---------------------------------------------------------------------------------------


def test_no_more_start_in_any_window_than_the_rate_allows(store: OneByOne) -> None:
    tasks = [store.new(**ONE) for _ in range(7)]
    rated = {"limits": rules(rate=(2, 100))}

    assert tasks[:1] == claimed(store, limit=1, now=NOW, **rated)
    assert tasks[1:2] == claimed(store, now=later(60), **rated)
    blocked = claim(store, now=later(99), **rated)
    assert ([], later(100)) == ([*blocked], blocked.opens_at)
    assert tasks[2:3] == claimed(store, now=later(100), **rated)
    assert [] == claimed(store, now=later(159), **rated)
    assert tasks[3:4] == claimed(store, now=later(160), **rated)
    assert [] == claimed(store, now=later(199), **rated)


def test_a_start_counts_however_its_run_ends_and_as_much_as_its_task_takes(
    store: OneByOne,
) -> None:
    first = store.new(takes={"provider": 2})
    second = store.new(takes={"provider": 2})
    rated = {"limits": rules(rate=(3, 100))}
    (started,) = claim(store, **rated)
    assert first == started.task_id

    store.end(started, outcome=Outcome.RELEASED, state=TaskState.READY)

    assert [] == claimed(store, now=later(99), **rated)
    assert [first] == claimed(store, now=later(100), **rated)
    assert [second] == claimed(store, now=later(200), **rated)


def test_starts_are_forgotten_once_no_window_has_them(store: OneByOne) -> None:
    for turn in range(5):
        store.new(**ONE)
        assert 1 == len(claim(store, now=later(turn * 10**6), limits=rules(rate=(1, 100))))

    with store.raw.transaction():
        assert [(1,)] == store.sql("SELECT count(*) FROM limit_starts")


def test_both_numbers_of_a_limit_hold(store: OneByOne) -> None:
    tasks = [store.new(**ONE) for _ in range(6)]
    both = {"limits": rules(3, (4, 100))}

    first = claim(store, **both)
    assert tasks[:3] == [one.task_id for one in first]
    for one in first:
        store.end(one)

    assert tasks[3:4] == claimed(store, now=later(50), **both)
    assert tasks[4:6] == claimed(store, now=later(100), **both)


# Claims by hand ------------------------------------------------------------------------------


def local(store: OneByOne, **wanted: Any) -> int | None:
    given = {"owner": "local:1", "output_dir": "/out", "now": NOW, **wanted}
    found = store.claim_local("default", **given)
    return None if found is None else int(found.task_id)


def test_r46_a_local_claim_takes_limits_too(store: OneByOne) -> None:
    first, second = store.new(**ONE), store.new(**ONE)

    assert first == local(store, limits=rules(1))
    assert local(store, limits=rules(1)) is None
    assert local(store, task_id=second, limits=rules(1)) is None
    assert [] == claimed(store, limits=rules(1))
    assert second == local(store, task_id=second, limits=rules(2))


def test_a_local_claim_finds_what_takes_no_full_limit(store: OneByOne) -> None:
    store.new(**ONE)
    store.new(**ONE)
    free = store.new()
    local(store, limits=rules(1))

    assert free == local(store, limits=rules(1))


# Damage --------------------------------------------------------------------------------------


def test_a_task_whose_limits_were_damaged_by_hand_is_held(store: OneByOne) -> None:
    task = store.new(**ONE)
    with store.raw.transaction():
        store.sql("UPDATE tasks SET takes = '{' RETURNING id")

    assert [] == claimed(store, limits=rules(1))
    assert TaskState.HELD is store.states()[task]
    assert "takes" in store.task(task).reason


# Several nodes -------------------------------------------------------------------------------


@pytest.fixture
def other(url: str, tmp_path: Path) -> Any:
    store = open_store(url, state_dir=tmp_path / "other", patience=5.0)
    yield store
    store.close()


@SHARED
def test_of_two_nodes_that_claim_at_once_one_passes_over_what_takes_the_limit(
    store: OneByOne, raw: SqlStore, other: Store
) -> None:
    tasks = [store.new(**ONE) for _ in range(3)]
    free = store.new()
    given: dict[str, Any] = {"output_dir": "/out", "limits": rules(2), "now": NOW}

    with raw.transaction(), other.transaction():
        first = raw.claim("default", limit=1, node=NODE, **given)
        second = other.claim("default", limit=9, node="other", **given)
        assert (tasks[:1], [free]) == ([one.task_id for one in first], [o.task_id for o in second])
        assert (False, True) == (first.busy, second.busy)

    assert tasks[1:2] == claimed(store, limits=rules(2))


@SHARED
def test_closing_a_limit_waits_for_the_claims_that_are_being_made(
    store: OneByOne, raw: SqlStore, other: Store
) -> None:
    """So nothing starts any more once it has returned."""
    task = store.new(**ONE)
    with ThreadPoolExecutor(1) as threads:
        with raw.transaction():
            made = raw.claim(
                "default", limit=1, node=NODE, output_dir="/o", limits=rules(2), now=NOW
            )

            def close() -> list[TaskState]:
                with other.transaction() as now:
                    other.close_limit("provider", "why", now=now)
                with other.snapshot():
                    found = other.task(task)
                assert found is not None
                return [found.state]

            closing = threads.submit(close)
            assert [task] == [one.task_id for one in made]

        assert [TaskState.RUNNING] == closing.result()


@SHARED
@pytest.mark.parametrize(("most", "rate"), [(2, None), (5, (40, 300)), (None, (10, 200))], ids=str)
def test_r44_claims_of_three_nodes_at_once_never_exceed_a_limit(
    store: OneByOne,
    url: str,
    tmp_path: Path,
    most: int | None,
    rate: tuple[int, int] | None,
) -> None:
    """At no instant, and in no window; also the limit of a queue.

    A run is from the commit of its claim until its settlement begins, as that of a daemon: a
    transaction has the time of its beginning, which may be long before it sees what ended.
    """
    spans: list[tuple[float, float, int, str]] = []
    for number in range(60):
        takes = {"provider": 2 if number % 7 == 3 else 1}
        store.new(queue="ab"[number % 2], takes=takes, requires={} if number % 3 else {"a": "b"})
    store.add_limits(["queue:a", "queue:b"])
    limits = {**rules(most, rate), **on_all(3, "a"), **on_all(4, "b")}

    def work(number: int) -> None:
        mine = open_store(url, state_dir=tmp_path / str(number), patience=5.0)
        for turn in range(2_000):
            with mine.transaction() as now:
                given = {"node": f"node-{number}", "output_dir": "/o", "labels": {"a": "b"}}
                made = mine.claim("ab"[turn % 2], limit=3, limits=limits, now=now, **given)
            begun = time.perf_counter()
            with mine.snapshot():
                tasks = [mine.task(one.task_id) for one in made]
            ended = time.perf_counter()
            spans.extend((begun, ended, one.takes["provider"], one.queue) for one in tasks if one)
            with mine.transaction() as now:
                mine.settle([settlement(one, ended_at=now) for one in made], now=now)
            with mine.snapshot():
                if not mine.has_unfinished():
                    break
        mine.close()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(3)))

    assert {TaskState.SUCCEEDED} == set(store.states().values())
    assert 60 == len(spans)
    if most is not None:
        assert most >= most_at_once([(begun, ended, units) for begun, ended, units, _ in spans])
    assert 3 >= most_at_once(
        [(begun, ended, 1) for begun, ended, _, queue in spans if queue == "a"]
    )
    if rate is not None:
        many, window = rate
        starts = [
            (run.claimed_at, store.task(number).takes["provider"])
            for number in store.states()
            for run in store.runs(number)
        ]
        assert many >= max(
            sum(units for at, units in starts if last - window < at <= last) for last, _ in starts
        )


def most_at_once(spans: list[tuple[float, float, int]]) -> int:
    """Return how much is held at the instant when it is most: one of the beginnings."""
    return max(sum(one[2] for one in spans if one[0] <= at < one[1]) for at, *_ in spans)


def test_who_uses_neither_limits_nor_keys_pays_no_statement(
    store: OneByOne, raw: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick asks for keys with the time of the next scheduled task, which it asked before."""
    store.close_limit("provider", "why", now=NOW)
    store.new()
    executed: list[str] = []
    for name in ("rows", "change", "later"):
        real = getattr(raw.engine, name)

        def spy(statement: str, *args: Any, _real: Any = real, **facts: Any) -> Any:
            executed.append(statement)
            return _real(statement, *args, **facts)

        monkeypatch.setattr(raw.engine, name, spy)

    (made,) = claim(store)
    run = store.open_run(made.run_uid)
    store.settle([settlement(made, awaited=run.awaited)], now=NOW)
    assert (None, False) == store.next_due_or_keys()

    assert executed
    tables = ("limits", "limit_starts", "limit_results", "takes IS NOT NULL AND")
    assert [] == [one for one in executed if any(f" {table}" in one for table in tables)]
