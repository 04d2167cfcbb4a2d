"""Breakers of queues in the store: counting, closing, and the probe."""

from typing import Any

import pytest

from dispatcher.events import EventKind, Ledger
from dispatcher.execution import Claim
from dispatcher.model import Outcome, TaskState
from dispatcher.named_limits import Closing, Rule, of_queue, parse_breaker
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import StoreTime
from tests.contract.helpers import NODE, NOW, OneByOne, later

LIMIT = of_queue("default")
COOLDOWN = 1_000
LIMITS = {LIMIT: Rule(breaker=parse_breaker("3 in 1m", Milliseconds(COOLDOWN)))}


def claim(store: OneByOne, *, now: StoreTime = NOW, **wanted: Any) -> list[Claim]:
    given = {"limit": 10, "node": NODE, "output_dir": "/out", "limits": LIMITS, "now": now}
    found: list[Claim] = store.claim("default", **{**given, **wanted})
    return found


def end(store: OneByOne, one: Claim, *, failed: bool, now: StoreTime = NOW) -> None:
    """Settle a run, and count it, as a daemon does."""
    facts = {"outcome": Outcome.FAILED, "state": TaskState.FAILED} if failed else {}
    store.end(one, now=now, **facts)
    store.record_results({LIMIT: int(failed)}, now=now)


def closing(store: OneByOne) -> Closing:
    return next(one for one in store.closings() if one.name == LIMIT)


def happened(store: OneByOne) -> list[tuple[str, str | None]]:
    found = store.last_events(Ledger.EVENTS, before=10**9, limit=99)
    kinds = {EventKind.LIMIT_CLOSED, EventKind.LIMIT_OPENED}
    return [(one.kind, one.reason) for one in reversed(found) if one.kind in kinds]


@pytest.fixture(autouse=True)
def tasks(store: OneByOne) -> list[int]:
    store.add_limits([LIMIT])
    return [store.new() for _ in range(20)]


def broken(store: OneByOne) -> None:
    """Let as many fail as close it, and a claim find that."""
    for one in claim(store):
        end(store, one, failed=True)
    assert [] == claim(store, now=later(1))


def test_r42_so_many_failures_close_the_queue_and_the_claim_says_when_a_probe_starts(
    store: OneByOne, tasks: list[int]
) -> None:
    first = claim(store)
    assert tasks[:3] == [one.task_id for one in first]
    assert [] == claim(store), "no more run than may still fail"
    for one in first:
        end(store, one, failed=True)

    blocked = store.claim(
        "default", limit=9, node=NODE, output_dir="/o", limits=LIMITS, now=later(1)
    )

    assert ([], later(1 + COOLDOWN)) == ([*blocked], blocked.opens_at)
    assert ("", later(1)) == (closing(store).probe, closing(store).closed_at)
    assert [("limit_closed", "3 failures within 1m, and no success")] == happened(store)


@pytest.mark.parametrize("failed", [True, False])
def test_one_probe_decides(store: OneByOne, failed: bool) -> None:
    broken(store)
    (probe,) = claim(store, now=later(1 + COOLDOWN))
    assert probe.run_uid == closing(store).probe
    assert [] == claim(store, now=later(10**5)), "it still runs"

    end(store, probe, failed=failed, now=later(10**5))

    found = claim(store, now=later(10**5 + 1))
    if failed:
        assert [] == found
        assert ("", later(10**5 + 1)) == (closing(store).probe, closing(store).closed_at)
        assert 1 == len(claim(store, now=later(10**5 + 1 + COOLDOWN)))
    else:
        assert 10 == len(found)
        assert closing(store).closed_at is None
        assert ("limit_opened", "a run of the queue has succeeded") == happened(store)[-1]


def test_a_probe_that_another_node_settled_decides_too(store: OneByOne) -> None:
    """It may have no breaker in its file, so that nothing was counted."""
    broken(store)
    (probe,) = claim(store, now=later(1 + COOLDOWN))

    store.end(probe, now=later(2 * COOLDOWN))

    assert 10 == len(claim(store, now=later(3 * COOLDOWN)))


def test_a_success_opens_it_and_failures_before_it_count_no_more(store: OneByOne) -> None:
    first = claim(store)
    for one in first[:2]:
        end(store, one, failed=True)
    end(store, first[2], failed=False, now=later(1))

    second = claim(store, now=later(2))
    assert 10 == len(second)
    for one in second[:2]:
        end(store, one, failed=True, now=later(3))

    assert 5 == len(claim(store, limit=5, now=later(4)))


def test_an_operator_opens_it(store: OneByOne) -> None:
    broken(store)
    assert store.open_limit(LIMIT, now=later(2))

    assert 3 == len(claim(store, now=later(3)))
    assert closing(store).probe is None


def test_results_are_forgotten_once_no_window_has_them(store: OneByOne) -> None:
    for turn in range(6):
        (one,) = claim(store, limit=1, now=later(turn * 10**6))
        end(store, one, failed=True, now=later(turn * 10**6))

    with store.raw.transaction():
        assert [(1,)] == store.sql("SELECT count(*) FROM limit_results")


def test_a_queue_of_which_no_file_has_a_breaker_counts_nothing(store: OneByOne) -> None:
    assert 10 == len(claim(store, limits={}))
