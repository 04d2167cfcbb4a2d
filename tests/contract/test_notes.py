from typing import Any

import pytest

from dispatcher.execution import Claim
from dispatcher.model import Liveness, Outcome
from dispatcher.wire import RunUid
from dispatcher.words import Accepted, Note, Refused
from dispatcher.worker_api import WorkerError
from tests.contract.helpers import NOW, OneByOne, later


def note(claim: Claim, text: str = "half way", **other: Any) -> Note:
    return Note(**{"task_id": claim.task_id, "lock": claim.lock, "note": text, **other})


def row(store: OneByOne, claim: Claim) -> Any:
    return store.runs(claim.task_id)[-1]


def test_a_note_renews_nothing_and_stamps_no_liveness(store: OneByOne) -> None:
    claim = store.claimed(liveness=Liveness.WORKER)

    assert Accepted() == store.note(note(claim), now=later(500))
    run = row(store, claim)
    assert ("half way", None) == (run.note, run.last_heartbeat_at)
    assert claim.lease_expires_at == run.lease_expires_at


def test_another_note_is_progress_and_the_same_again_is_none(store: OneByOne) -> None:
    claim = store.claimed()
    store.note(note(claim), now=later(1))
    store.note(note(claim), now=later(2))
    assert later(1) == store.open_run(claim.run_uid).progressed_at
    store.note(note(claim, "done"), now=later(3))
    assert later(3) == store.open_run(claim.run_uid).progressed_at


def test_a_note_is_guarded_like_a_heartbeat(store: OneByOne) -> None:
    claim = store.claimed()
    stranger = store.note(note(claim, lock="x"), now=NOW)
    nobody = store.note(note(claim, task_id=99), now=NOW)
    store.begin_ending(claim.run_uid, Outcome.CANCELLED, "cancelled", now=NOW)
    ending = store.note(note(claim), now=NOW)
    store.end(claim, outcome=Outcome.CANCELLED)
    over = store.note(note(claim), now=NOW)

    refusals = [answer.error for answer in (stranger, nobody, ending, over)]
    assert [
        WorkerError.NOT_OWNER,
        WorkerError.UNKNOWN_TASK,
        WorkerError.NOT_OWNER,
        WorkerError.NOT_RUNNING,
    ] == refusals
    assert isinstance(over, Refused)
    assert row(store, claim).note is None


def test_a_runs_lock_is_the_one_that_its_claim_had(store: OneByOne) -> None:
    claim = store.claimed()
    store.begin_ending(claim.run_uid, Outcome.CANCELLED, "cancelled", now=NOW)

    assert (claim.task_id, claim.lock) == store.locks_of([claim.run_uid]).get(claim.run_uid)
    assert store.locks_of([RunUid("nobody")]).get(RunUid("nobody")) is None
    store.end(claim)
    assert store.locks_of([claim.run_uid]).get(claim.run_uid) is None


@pytest.mark.parametrize("notify", [True, False])
def test_a_task_keeps_whether_it_wants_a_notify_socket(store: OneByOne, notify: bool) -> None:
    claim = store.claimed(notify=notify, lease_ttl_ms=5_000)

    assert notify is claim.notify
    assert notify is store.task(claim.task_id).notify
    assert (5.0 if notify else None) == claim.watchdog
