"""The run and total time-outs of local claims: no beat and no word goes beyond them."""

from typing import Any

import pytest

from dispatcher.execution import LOCAL, Claim, OpenRun
from dispatcher.model import Declared
from dispatcher.store.api import Store
from dispatcher.words import Accepted, Beat, Declaration, Note, Refused, Renewed
from dispatcher.worker_api import WorkerError
from tests.contract.helpers import NODE, TTL, OneByOne, later


def taken(store: OneByOne, at: int = 0, **limits: Any) -> Claim:
    """Submit a task with time-outs and claim it by hand so many milliseconds later."""
    store.new(queue="own", **limits)
    claim: Claim | None = store.claim_local(
        "own", owner=f"{LOCAL}me", output_dir="/out", now=later(at)
    )
    assert claim is not None
    return claim


def beat(claim: Claim) -> Beat:
    return Beat(task_id=claim.task_id, lock=claim.lock)


def declaration(claim: Claim) -> Declaration:
    return Declaration(task_id=claim.task_id, lock=claim.lock, word=Declared.SUCCEED)


def abandoned(store: OneByOne, at: int) -> list[OpenRun]:
    found: list[OpenRun] = store.abandoned(limit=9, now=later(at))
    return found


@pytest.mark.parametrize(
    ("limits", "deadline"),
    [
        ({"run_timeout_ms": 3_000}, 4_000),  # from the claim
        ({"total_timeout_ms": 3_000}, 3_000),  # from the submit
        ({"run_timeout_ms": 3_000, "total_timeout_ms": 3_500}, 3_500),
        ({"run_timeout_ms": 3_000, "total_timeout_ms": 9_000}, 4_000),
    ],
)
def test_the_lease_ends_with_the_time_of_the_claim(
    store: OneByOne, limits: dict[str, int], deadline: int
) -> None:
    claim = taken(store, at=1_000, **limits)

    assert later(deadline) == claim.lease_expires_at
    assert later(deadline) == store.next_takeover(NODE, now=later(1_000))
    assert [] == abandoned(store, deadline - 1)
    (run,) = abandoned(store, deadline)
    assert (later(deadline), True) == (run.deadline_at, run.ran_out_of_time)


def test_a_beat_renews_up_to_the_deadline_and_no_further(store: OneByOne) -> None:
    claim = taken(store, run_timeout_ms=TTL + 500)

    assert Renewed(later(100 + TTL)) == store.heartbeat([beat(claim)], now=later(100))[0]
    assert Renewed(later(TTL + 500)) == store.heartbeat([beat(claim)], now=later(TTL))[0]

    assert not store.open_run(taken(store).run_uid).ran_out_of_time
    assert store.open_run(claim.run_uid).ran_out_of_time


def test_a_request_after_the_deadline_is_refused_and_writes_nothing(store: OneByOne) -> None:
    claim = taken(store, run_timeout_ms=3_000)
    before = store.runs(claim.task_id)
    note = Note(task_id=claim.task_id, lock=claim.lock, note="late")

    answers = [
        store.heartbeat([beat(claim)], now=later(3_000))[0],
        store.note(note, now=later(3_000)),
        store.declare(declaration(claim), now=later(3_000)),
    ]

    assert {WorkerError.NOT_OWNER} == {one.error for one in answers if isinstance(one, Refused)}
    assert 3 == len(answers) == sum(isinstance(one, Refused) for one in answers)
    assert before == store.runs(claim.task_id)


def test_a_moment_before_the_deadline_it_may_be_declared(store: OneByOne) -> None:
    claim = taken(store, run_timeout_ms=3_000)

    assert Accepted() == store.declare(declaration(claim), now=later(2_999))


def test_a_claim_of_a_node_has_no_deadline_but_its_daemon(store: OneByOne, raw: Store) -> None:
    claim = store.claimed(run_timeout_ms=3_000)

    assert store.open_run(claim.run_uid).deadline_at is None
    assert isinstance(store.heartbeat([beat(claim)], now=later(3_000))[0], Renewed)
