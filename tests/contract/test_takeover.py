"""Local claims and `takeover_at` on the store."""

from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.execution import LOCAL, Claim
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.words import Accepted, Beat, Declaration, Renewed
from dispatcher.worker_api import WorkerError
from tests.contract.helpers import EMBEDDED, NODE, NOW, TTL, OneByOne, later

OWNER = f"{LOCAL}somebody"


def take_local(store: OneByOne, **wanted: Any) -> Claim | None:
    claim: Claim | None = store.claim_local(
        **{"queue": "own", "owner": OWNER, "output_dir": "/out", "now": NOW, **wanted}
    )
    return claim


@pytest.fixture
def claim(store: OneByOne) -> Claim:
    store.new(queue="own")
    claim = take_local(store)
    assert claim is not None
    return claim


def beat(claim: Claim, lock: str | None = None) -> Beat:
    return Beat(task_id=claim.task_id, lock=claim.lock if lock is None else lock)


def abandoned(store: OneByOne, now: int) -> list[str]:
    return [run.run_uid for run in store.abandoned(limit=9, now=later(now))]


def stranded(store: OneByOne, now: int, node: str = NODE) -> list[str]:
    return [run.run_uid for run in store.stranded(node, now=later(now))]


@pytest.fixture
def shared(store: OneByOne) -> OneByOne:
    """A store with which nodes on other hosts may work."""
    engine = store.raw.engine
    if not engine.dialect.shared:
        engine.dialect = replace(engine.dialect, shared=True)
    return store


def both_ends(store: OneByOne, claim: Claim) -> tuple[int, int]:
    expiry = store.lease("lease_expires_at", claim.task_id)
    return expiry - NOW, store.lease("takeover_at", claim.task_id) - NOW


def test_a_local_claim_is_nobodys_node_and_its_takeover_is_its_expiry(
    store: OneByOne, claim: Claim
) -> None:
    assert (OWNER, TaskState.RUNNING) == (
        store.lease("node", claim.task_id),
        store.task(claim.task_id).state,
    )
    assert (TTL, TTL) == both_ends(store, claim)
    assert OWNER == store.runs(claim.task_id)[0].node
    assert (1, 1, NOW + TTL) == (claim.fence, claim.attempt, claim.lease_expires_at)


def test_ac1_r01_one_beat_moves_expiry_and_takeover_together(store: OneByOne, claim: Claim) -> None:
    with store.raw.transaction():
        store.sql("UPDATE runs SET lease_expires_at = 1, takeover_at = 1 RETURNING id")

    assert Renewed(later(7 + TTL)) == store.heartbeat([beat(claim)], now=later(7))[0]

    assert (7 + TTL, 7 + TTL) == both_ends(store, claim)
    assert [] == abandoned(store, 7)


def test_a_beat_for_a_node_leaves_the_nodes_own_clock_alone(store: OneByOne) -> None:
    claim = store.claimed(kill_grace_ms=0, until=later(1))
    store.heartbeat([beat(claim)], now=later(7))
    assert later(1) == store.lease("takeover_at", claim.task_id)

    store.confirm(NODE, later(5))
    store.heartbeat([beat(claim)], now=later(8))

    assert later(5) == store.lease("takeover_at", claim.task_id)


def test_ac4_r02_a_wrong_lock_is_not_owner_and_touches_nothing(
    store: OneByOne, claim: Claim
) -> None:
    answer = store.heartbeat([beat(claim, claim.lock[:-1])], now=later(7))[0]

    assert WorkerError.NOT_OWNER is answer.error
    assert (TTL, TTL) == both_ends(store, claim)


def test_the_highest_priority_is_claimed_or_the_task_that_is_named(store: OneByOne) -> None:
    low, high, other = (
        store.new(queue=queue, priority=priority)
        for queue, priority in (("own", 0), ("own", 5), ("other", 0))
    )

    taken = [take_local(store, task_id=other), take_local(store), take_local(store)]

    assert [other, high, low] == [claim and claim.task_id for claim in taken]
    assert [None, None, None] == [
        take_local(store),
        take_local(store, task_id=low),
        take_local(store, task_id=99),
    ]


def test_a_ttl_of_the_claims_own_is_the_tasks_from_then_on(store: OneByOne) -> None:
    store.new(queue="own")

    claim = take_local(store, lease_ttl_ms=7_000)

    assert claim is not None
    assert (7_000, 7_000) == both_ends(store, claim)
    assert Renewed(later(7_001)) == store.heartbeat([beat(claim)], now=later(1))[0]


# What is abandoned ---------------------------------------------------------------------------


def test_a_local_claim_is_abandoned_at_its_expiry_and_not_before(
    store: OneByOne, claim: Claim
) -> None:
    assert later(TTL) == store.next_takeover(NODE, now=NOW)
    assert [] == abandoned(store, TTL - 1)
    assert [claim.run_uid] == abandoned(store, TTL)


def test_ac8_a_late_beat_before_the_takeover_revives_a_local_claim(
    store: OneByOne, claim: Claim
) -> None:
    assert Renewed(later(2 * TTL)) == store.heartbeat([beat(claim)], now=later(TTL))[0]

    assert [] == abandoned(store, TTL)


def test_the_reaper_of_a_node_leaves_local_claims_alone(store: OneByOne, claim: Claim) -> None:
    assert [] == store.expired(NODE, limit=9, now=later(10 * TTL))
    assert [] == store.open_runs(NODE)
    assert 0 == store.renew(NODE, now=later(1))


@pytest.mark.parametrize("how", ["ended", "declared"])
def test_a_local_claim_that_is_over_is_abandoned_at_once(
    store: OneByOne, claim: Claim, how: str
) -> None:
    if how == "ended":
        store.cancel(claim.task_id, "operator", now=NOW)
    else:
        declared = Declaration(task_id=claim.task_id, lock=claim.lock, word=Declared.SUCCEED)
        assert Accepted() == store.declare(declared, now=NOW)

    assert [claim.run_uid] == abandoned(store, 0)


def test_r09_a_local_expiry_of_a_wrong_clock_counts_as_expired(
    store: OneByOne, claim: Claim
) -> None:
    store.heartbeat([beat(claim)], now=later(3_600_000))

    assert [claim.run_uid] == abandoned(store, 0)


def test_a_claim_of_a_node_is_stranded_for_others_from_its_takeover_on(shared: OneByOne) -> None:
    claim = shared.claimed(kill_grace_ms=0, until=later(50))

    assert {claim.run_uid} == shared.confirm(NODE, later(100))

    assert [] == stranded(shared, 99, node="other")
    assert [claim.run_uid] == stranded(shared, 100, node="other")
    assert later(100) == shared.next_takeover("other", now=NOW)
    assert shared.next_takeover("other", now=later(100)) is None  # it has come


@EMBEDDED
def test_in_an_embedded_store_all_claims_of_other_nodes_are_stranded(
    store: OneByOne, claim: Claim
) -> None:
    ours, older, newer = (
        store.claimed(queue=queue, node=node)
        for queue, node in (("a", NODE), ("b", "before"), ("c", "long before"))
    )
    store.confirm("before", later(10**9))

    assert [older.run_uid, newer.run_uid] == stranded(store, 0)
    assert [ours.run_uid, newer.run_uid] == stranded(store, 0, node="before")
    store.end(older)
    assert [newer.run_uid] == stranded(store, 0)
    assert [] == abandoned(store, 0)


def test_a_takeover_is_never_moved_back_as_the_executors_deadline_is_not(shared: OneByOne) -> None:
    """A daemon that is started again with a shorter limit is cut off before its executor obeys."""
    claim = shared.claimed(kill_grace_ms=0, until=later(300))

    shared.confirm(NODE, later(20))

    assert [] == stranded(shared, 299, node="other")
    assert [claim.run_uid] == stranded(shared, 300, node="other")


def test_a_claim_that_was_made_or_confirmed_for_ever_is_nobody_elses(shared: OneByOne) -> None:
    """Its executor has no deadline, or one that is years away."""
    shared.claimed(queue="a")
    shared.claimed(queue="b", until=later(50))
    shared.confirm(NODE, None)

    shared.confirm(NODE, later(100))

    assert [] == stranded(shared, 10**9, node="other")
    assert shared.next_takeover("other", now=NOW) is None


def test_no_node_takes_its_own_claims(store: OneByOne) -> None:
    store.claimed(until=later(50))
    store.confirm(NODE, later(100))

    assert [] == stranded(store, 10**9)
    assert [] == abandoned(store, 10**9)
    assert store.next_takeover(NODE, now=NOW) is None


@pytest.mark.parametrize(("own", "holds"), [(None, 10_000), (0, 0), (50, 50)])
def test_a_claim_may_be_taken_over_once_the_kill_grace_fixed_at_the_submit_is_over_too(
    store: OneByOne, own: int | None, holds: int
) -> None:
    store.new(kill_grace_ms=own)

    (claim,) = store.claim(
        "default", limit=1, node=NODE, output_dir="/out", until=later(100), now=NOW
    )
    assert later(100 + holds) == store.lease("takeover_at", claim.task_id)
    assert (holds, holds) == (claim.kill_grace_ms, store.open_run(claim.run_uid).kill_grace_ms)
    assert own == store.task(claim.task_id).kill_grace_ms

    store.confirm(NODE, later(200))
    assert later(200 + holds) == store.lease("takeover_at", claim.task_id)
    store.confirm(NODE, None)
    assert store.lease("takeover_at", claim.task_id) is None


def test_a_local_claim_and_the_next_run_of_its_task_have_the_same_kill_grace(
    store: OneByOne,
) -> None:
    store.new(kill_grace_ms=7)

    claim = store.claim_local("default", owner="local:1", output_dir="/out", now=NOW)
    assert (7, 7) == (claim.kill_grace_ms, store.lease("kill_grace_ms", claim.task_id))
    store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY)

    (again,) = store.take()
    assert 7 == again.kill_grace_ms


def test_the_ending_of_a_nodes_run_does_not_make_it_stranded(shared: OneByOne) -> None:
    claim = shared.claimed(until=later(50))
    shared.confirm(NODE, later(100))
    shared.begin_ending(claim.run_uid, Outcome.CANCELLED, "operator", now=NOW)

    assert [] == stranded(shared, 99, node="other")
    assert [] == abandoned(shared, 99)


def test_confirming_moves_nothing_of_other_nodes_and_local_claims(
    store: OneByOne, claim: Claim
) -> None:
    store.claimed(queue="x", node="other")

    assert set() == store.confirm(NODE, later(1))
    assert (TTL, TTL) == both_ends(store, claim)


def test_a_settled_local_claim_is_a_run_like_any(store: OneByOne, claim: Claim) -> None:
    store.end(claim, outcome=Outcome.LOST, state=TaskState.READY, attempts_used=1)

    assert [] == abandoned(store, 10**9)
    assert store.next_takeover(NODE, now=NOW) is None
    (again,) = store.take("own")
    assert (2, Outcome.LOST, ()) == (again.fence, again.last_outcome, again.earlier_output_paths)


def test_open_declared_runs_are_found_by_their_node(store: OneByOne, claim: Claim) -> None:
    ours, silent, other = (
        store.claimed(queue=queue, node=node, liveness=Liveness.WORKER)
        for queue, node in (("a", NODE), ("b", NODE), ("c", "other"))
    )
    for each in (ours, other, claim):
        declared = Declaration(task_id=each.task_id, lock=each.lock, word=Declared.SUCCEED)
        store.declare(declared, now=NOW)

    assert [ours.run_uid] == store.declared(NODE)
    store.end(ours)
    assert [] == store.declared(NODE)
    assert store.open_run(silent.run_uid) is not None


def test_a_look_for_stranded_runs_finds_those_that_are_known_and_a_bounded_number_more(
    store: OneByOne,
) -> None:
    uids = {store.claimed(node="far", until=NOW).run_uid for _ in range(5)}
    known = {*sorted(uids)[:2]}

    found = [run.run_uid for run in store.stranded(NODE, known=known, limit=2, now=later(TTL))]

    assert (4, 4) == (len(found), len({*found} & uids))
    assert known < {*found}
