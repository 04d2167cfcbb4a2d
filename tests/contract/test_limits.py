"""Named limits in the store: closing and opening, by operators and by workers."""

from contextlib import closing as closing_store
from pathlib import Path
from typing import Any

import pytest

from dispatcher.events import EventKind, Ledger
from dispatcher.execution import Claim
from dispatcher.hooks import Hook
from dispatcher.model import Declared
from dispatcher.named_limits import Closing
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.times import WallTime
from dispatcher.words import Accepted, Declaration, Refused
from dispatcher.worker_api import WorkerError
from tests.contract.doubles import AllHooks
from tests.contract.helpers import NOW, SHARED, OneByOne, later


def closing(store: OneByOne, name: str = "provider") -> Closing:
    """Return the row of a limit; an open one if it has none."""
    found = (one for one in store.closings() if one.name == name)
    return next(found, Closing(name=name))


def happened(store: OneByOne) -> list[tuple[str, str | None, str | None]]:
    """Return the events of limits: kind, limit and reason."""
    found = store.last_events(Ledger.EVENTS, before=10**9, limit=99)
    kinds = {EventKind.LIMIT_CLOSED, EventKind.LIMIT_OPENED}
    return [(one.kind, one.subject, one.reason) for one in reversed(found) if one.kind in kinds]


def holders(store: OneByOne) -> dict[str, dict[int, int]]:
    """Return how much of each limit each running task holds."""
    return {view.name: dict(view.holders) for view in store.limit_views({}, now=NOW).values()}


def deferral(claim: Claim, **facts: Any) -> Declaration:
    given = {"task_id": claim.task_id, "lock": claim.lock, "word": Declared.DEFER}
    return Declaration(**{**given, "close": "provider", "delay_ms": 5_000, **facts})


@pytest.fixture
def claim(store: OneByOne) -> Claim:
    return store.claimed(takes={"provider": 2, "gpu": 1})


def test_an_operator_closes_and_opens_a_limit_and_both_are_events(store: OneByOne) -> None:
    store.act_as("user:7:ann")
    store.close_limit("provider", "over its budget", until=later(9), now=NOW)

    found = closing(store)
    assert found.is_closed(later(8))
    assert not found.is_closed(later(9)), "it opens by itself at its time"
    assert (NOW, "over its budget", "user:7:ann") == (
        found.closed_at,
        found.closed_reason,
        found.closed_by,
    )
    assert store.open_limit("provider", now=later(1))
    assert not store.open_limit("provider", now=later(2))
    assert not store.open_limit("another", now=later(2))
    assert not closing(store).is_closed(later(2))
    assert [
        ("limit_closed", "provider", "over its budget"),
        ("limit_opened", "provider", None),
    ] == happened(store)


def test_a_limit_that_is_closed_without_a_time_stays_so_and_a_later_close_replaces_it(
    store: OneByOne,
) -> None:
    store.close_limit("provider", "why", now=NOW)
    assert closing(store).is_closed(later(10**12))

    store.close_limit("provider", "shorter", until=later(5), now=later(1))

    assert not closing(store).is_closed(later(5))
    assert "shorter" == closing(store).closed_reason


def test_what_a_running_task_takes_is_held_and_nothing_after_its_end(
    store: OneByOne, claim: Claim
) -> None:
    waiting = store.new(takes={"other": 3})

    assert {"provider": {claim.task_id: 2}, "gpu": {claim.task_id: 1}} == holders(store)
    assert {"provider", "gpu", "other"} == store.limits_taken()

    store.end(claim)

    assert {} == holders(store)
    assert {"other"} == store.limits_taken()
    assert {"other": 3} == store.task(waiting).takes


def test_a_worker_closes_a_limit_of_its_task_with_its_deferral(
    store: OneByOne, claim: Claim
) -> None:
    declared = deferral(claim, reason="429 from the provider")

    assert Accepted() == store.declare(declared, now=NOW)

    found = closing(store)
    assert (NOW, later(5_000), "429 from the provider", "worker") == (
        found.closed_at,
        found.closed_until,
        found.closed_reason,
        found.closed_by,
    )
    assert [("limit_closed", "provider", "429 from the provider")] == happened(store)


def test_the_same_deferral_again_is_accepted_and_closes_nothing_again(
    store: OneByOne, claim: Claim
) -> None:
    store.declare(deferral(claim), now=NOW)
    store.open_limit("provider", now=later(1))

    assert Accepted() == store.declare(deferral(claim), now=later(2))
    assert not closing(store).is_closed(later(2))

    store.end(claim)
    assert Accepted() == store.declare(deferral(claim), now=later(3)), "also after the settle"
    assert not closing(store).is_closed(later(3))


def test_a_deferral_until_a_date_is_the_same_when_it_is_sent_again_later(
    store: OneByOne, claim: Claim
) -> None:
    store.declare(deferral(claim, until=99, delay_ms=5_000), now=NOW)

    again = store.declare(deferral(claim, until=99, delay_ms=4_000), now=later(1_000))

    assert Accepted() == again
    assert later(5_000) == closing(store).closed_until


@pytest.mark.parametrize(("until", "stays"), [(None, True), (90_000, True), (10, False)])
def test_a_worker_closes_a_limit_for_longer_and_never_for_less(
    store: OneByOne, claim: Claim, until: int | None, stays: bool
) -> None:
    then = None if until is None else later(until)
    store.close_limit("provider", "by a person", until=then, now=NOW)

    store.declare(deferral(claim), now=NOW)

    assert (then if stays else later(5_000)) == closing(store).closed_until
    assert stays == (closing(store).closed_reason == "by a person")


@pytest.mark.parametrize("delay_ms", [None, 0], ids=["a date that is over", "no delay"])
def test_a_deferral_closes_nothing_for_no_time(
    store: OneByOne, claim: Claim, delay_ms: int | None
) -> None:
    over = WallTime(0) if delay_ms is None else None

    assert Accepted() == store.declare(deferral(claim, delay_ms=delay_ms, until=over), now=NOW)

    assert [] == store.closings()
    assert [] == happened(store)


def test_a_worker_cannot_close_what_its_task_does_not_take(store: OneByOne, claim: Claim) -> None:
    answer = store.declare(deferral(claim, close="other"), now=NOW)

    assert isinstance(answer, Refused)
    assert WorkerError.NOT_TAKEN == answer.error
    assert [] == store.closings()
    assert store.lease("declared", claim.task_id) is None, "nothing is declared"


def test_a_foreign_lock_closes_nothing(store: OneByOne, claim: Claim) -> None:
    answer = store.declare(deferral(claim, lock="no"), now=NOW)

    assert isinstance(answer, Refused)
    assert WorkerError.NOT_OWNER == answer.error
    assert [] == store.closings()


@pytest.mark.parametrize("by_worker", [True, False], ids=["by a worker", "by an operator"])
def test_a_limit_that_is_closed_has_a_hook(
    raw: SqlStore, store: OneByOne, claim: Claim, by_worker: bool
) -> None:
    hooks = AllHooks()
    raw.use_hooks(hooks)

    if by_worker:
        store.declare(deferral(claim, reason="429"), now=NOW)
    else:
        store.close_limit("provider", "429", now=NOW)

    (one,) = hooks.seen
    assert (Hook.LIMIT_CLOSED, "provider", "429") == (one.hook, one.subject, one.event_reason)


@SHARED
def test_a_limit_that_others_have_locked_is_no_wait_for_those_who_ask_first(
    raw: SqlStore, store: OneByOne, url: str, tmp_path: Path
) -> None:
    """Two nodes that each close two limits, in either order, would wait for each other."""
    store.add_limits(["gpu", "provider"])
    with closing_store(open_store(url, state_dir=tmp_path / "other", patience=5.0)) as other:
        with raw.transaction() as now, other.transaction():
            assert set() == raw.lock_limits(["provider", "unknown"])
            raw.close_limit("provider", "why", now=now)
            assert {"provider"} == other.lock_limits(["provider", "gpu", "unknown"])
            assert {"gpu"} == raw.lock_limits(["gpu", "provider"])

        with other.transaction():
            assert set() == other.lock_limits(["gpu", "provider"])
