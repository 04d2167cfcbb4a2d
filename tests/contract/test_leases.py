"""Heartbeats, declarations and expiry on the store."""

from typing import Any

import pytest

from dispatcher.execution import Claim
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.wire import Exit
from dispatcher.words import Accepted, Beat, Declaration, Refused, Renewed
from dispatcher.worker_api import WorkerError
from tests.contract.helpers import NODE, NOW, TTL, OneByOne, later

FAILED = {"outcome": Outcome.FAILED, "state": TaskState.READY}


def beat(claim: Claim, **changes: Any) -> Beat:
    return Beat(**{"task_id": claim.task_id, "lock": claim.lock, **changes})


def declaration(claim: Claim, word: Declared = Declared.SUCCEED, **facts: Any) -> Declaration:
    return Declaration(**{"task_id": claim.task_id, "lock": claim.lock, "word": word, **facts})


def everything(store: OneByOne) -> list[Any]:
    with store.raw.transaction():
        return [store.sql(f"SELECT * FROM {table} ORDER BY id") for table in ("tasks", "runs")]


@pytest.fixture
def claim(store: OneByOne) -> Claim:
    return store.claimed(liveness=Liveness.WORKER)


# The one heartbeat -------------------------------------------------------------------------


def test_ac1_r01_a_beat_moves_the_expiry_and_stamps_life_together(
    store: OneByOne, claim: Claim
) -> None:
    with store.raw.transaction():
        store.sql("UPDATE runs SET lease_expires_at = 1 RETURNING id")

    answer = store.heartbeat([beat(claim, progress=0.5, note="half")], now=later(7))[0]

    (run,) = store.runs(claim.task_id)
    assert Renewed(later(7 + TTL)) == answer
    assert later(7 + TTL) == store.lease("lease_expires_at", claim.task_id)
    assert (later(7 + TTL), later(7)) == (run.lease_expires_at, run.last_heartbeat_at)
    assert (0.5, "half") == (run.progress, run.note)
    assert [] == store.expired(NODE, limit=9, now=later(8))


def test_two_beats_move_the_expiry_forward_and_silence_on_progress_keeps_it(
    store: OneByOne, claim: Claim
) -> None:
    store.heartbeat([beat(claim, progress=0.25, note="quarter")], now=later(1))

    assert Renewed(later(1001 + TTL)) == store.heartbeat([beat(claim)], now=later(1001))[0]

    (run,) = store.runs(claim.task_id)
    assert (0.25, "quarter") == (run.progress, run.note)


def test_a_beat_assigns_the_expiry_also_when_it_lay_further_ahead(
    store: OneByOne, claim: Claim
) -> None:
    store.heartbeat([beat(claim)], now=later(3_600_000))

    assert Renewed(later(TTL)) == store.heartbeat([beat(claim)], now=NOW)[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: lock[:-1],
        lambda lock: lock + "0",
        lambda lock: lock.upper() + "A",
        lambda _: "",
        lambda lock: " " + lock,
        lambda _: "%",
    ],
)
def test_ac2_only_the_whole_lock_will_do(store: OneByOne, claim: Claim, change: Any) -> None:
    before = everything(store)

    answer = store.heartbeat([beat(claim, lock=change(claim.lock))], now=later(5))[0]

    assert Refused(WorkerError.NOT_OWNER, TaskState.RUNNING, 1) == answer
    assert before == everything(store)


def test_another_tasks_lock_is_refused(store: OneByOne, claim: Claim) -> None:
    other = store.claimed(queue="other")
    before = everything(store)

    answer = store.heartbeat([beat(claim, lock=other.lock)], now=later(5))[0]

    assert WorkerError.NOT_OWNER is answer.error
    assert before == everything(store)


def test_r03_a_stale_lock_is_superseded_and_touches_nothing(store: OneByOne, claim: Claim) -> None:
    store.end(claim, **FAILED, attempts_used=1)
    (successor,) = store.take("own")
    before = everything(store)

    answer = store.heartbeat([beat(claim)], now=later(5))[0]

    assert Refused(WorkerError.SUPERSEDED, TaskState.RUNNING, 2) == answer
    assert WorkerError.SUPERSEDED is store.declare(declaration(claim), now=later(5)).error
    assert before == everything(store)
    assert claim.fence + 1 == successor.fence


@pytest.mark.parametrize("state", [TaskState.READY, TaskState.HELD, TaskState.SUCCEEDED])
def test_ac4_a_beat_after_the_settle_is_not_running(
    store: OneByOne, claim: Claim, state: TaskState
) -> None:
    store.end(claim, state=state)
    before = everything(store)

    answer = store.heartbeat([beat(claim)], now=later(5))[0]

    assert (WorkerError.NOT_RUNNING, state) == (answer.error, answer.state)
    assert before == everything(store)


def test_a_beat_for_no_task_is_unknown_task(store: OneByOne, claim: Claim) -> None:
    assert (
        Refused(WorkerError.UNKNOWN_TASK) == store.heartbeat([beat(claim, task_id=99)], now=NOW)[0]
    )


def test_a_beat_of_an_ending_run_is_not_owner(store: OneByOne, claim: Claim) -> None:
    store.begin_ending(claim.run_uid, Outcome.LOST, "silent", now=NOW)
    before = everything(store)

    assert WorkerError.NOT_OWNER is store.heartbeat([beat(claim)], now=NOW)[0].error
    assert before == everything(store)


def test_ac8_r08_a_late_beat_before_the_reaper_revives_the_lease(
    store: OneByOne, claim: Claim
) -> None:
    late = later(TTL + 1)
    assert [claim.run_uid] == [run.run_uid for run in store.expired(NODE, limit=9, now=late)]

    assert Renewed(later(2 * TTL + 1)) == store.heartbeat([beat(claim)], now=late)[0]

    assert [] == store.expired(NODE, limit=9, now=late)


def test_r04_a_claim_starts_without_its_predecessors_beats(store: OneByOne, claim: Claim) -> None:
    store.heartbeat([beat(claim, progress=0.9, note="nearly")], now=later(1))
    store.end(claim, **FAILED)
    store.take("own", now=later(2))

    old, new = store.runs(claim.task_id)
    assert (later(1), 0.9, "nearly") == (old.last_heartbeat_at, old.progress, old.note)
    assert (None, None, None) == (new.last_heartbeat_at, new.progress, new.note)


# Expiry ------------------------------------------------------------------------------------


def test_a_lease_expires_at_its_instant_and_not_before(store: OneByOne, claim: Claim) -> None:
    assert later(TTL) == store.next_expiry(NODE)
    assert [] == store.expired(NODE, limit=9, now=later(TTL - 1))
    assert [claim.run_uid] == [r.run_uid for r in store.expired(NODE, limit=9, now=later(TTL))]


def test_only_workers_that_beat_for_themselves_expire(store: OneByOne) -> None:
    store.claimed(liveness=Liveness.PROCESS)

    assert store.next_expiry(NODE) is None
    assert [] == store.expired(NODE, limit=9, now=later(10 * TTL))


def test_another_nodes_leases_are_not_ours_to_find(store: OneByOne) -> None:
    store.claimed(liveness=Liveness.WORKER, node="elsewhere")

    assert [] == store.expired(NODE, limit=9, now=later(10 * TTL))
    assert 0 == store.renew(NODE, now=NOW)


def test_a_run_that_is_ending_declared_or_exited_is_never_lost(store: OneByOne) -> None:
    ending, declared, exited = (
        store.claimed(queue=name, liveness=Liveness.WORKER) for name in ("a", "b", "c")
    )
    store.begin_ending(ending.run_uid, Outcome.CANCELLED, "operator", now=NOW)
    store.declare(declaration(declared), now=NOW)
    store.record_leader_exits({exited.run_uid: Exit(at=0.0, exit_code=0)}, now=NOW)

    assert [] == store.expired(NODE, limit=9, now=later(10 * TTL))
    assert 3 == store.renew(NODE, now=later(5))
    assert later(5 + TTL) == store.lease("lease_expires_at", declared.task_id)


def test_the_daemon_renews_processes_and_never_a_silent_worker(
    store: OneByOne, claim: Claim
) -> None:
    process = store.claimed(queue="other")

    assert 1 == store.renew(NODE, now=later(5))

    assert later(5 + TTL) == store.lease("lease_expires_at", process.task_id)
    assert later(TTL) == store.lease("lease_expires_at", claim.task_id)


def test_r09_a_lease_of_a_wrong_clock_counts_as_expired(store: OneByOne, claim: Claim) -> None:
    store.heartbeat([beat(claim)], now=later(3_600_000))

    assert [claim.run_uid] == [r.run_uid for r in store.expired(NODE, limit=9, now=NOW)]


def test_leases_shorter_than_twice_an_absence_are_spared(store: OneByOne, claim: Claim) -> None:
    long = store.claimed(queue="long", liveness=Liveness.WORKER, lease_ttl_ms=10 * TTL)

    assert 1 == store.renew_short(NODE, gap_ms=TTL, now=later(TTL))

    assert later(2 * TTL) == store.lease("lease_expires_at", claim.task_id)
    assert later(10 * TTL) == store.lease("lease_expires_at", long.task_id)


# Declarations ------------------------------------------------------------------------------


def test_a_declaration_is_kept_with_the_run_until_its_end(store: OneByOne, claim: Claim) -> None:
    declared = declaration(claim, Declared.FAIL, reason="no disk", retry=False)

    assert Accepted() == store.declare(declared, now=NOW)

    run = store.open_run(claim.run_uid)
    assert (Declared.FAIL, "no disk", False) == (
        run.declared,
        run.declared_reason,
        run.declared_retry,
    )
    assert TaskState.RUNNING is store.task(claim.task_id).state


def test_the_same_again_is_accepted_also_after_the_settle(store: OneByOne, claim: Claim) -> None:
    declared = declaration(claim, result='{"rows":3}')
    store.declare(declared, now=NOW)

    assert Accepted() == store.declare(declared, now=later(1))
    store.end(claim)
    assert Accepted() == store.declare(declared, now=later(2))
    assert '{"rows":3}' == store.runs(claim.task_id)[0].result


def test_another_declaration_is_refused_and_changes_nothing(store: OneByOne, claim: Claim) -> None:
    store.declare(declaration(claim), now=NOW)
    before = everything(store)

    answer = store.declare(declaration(claim, Declared.FAIL, reason="after all"), now=later(1))

    assert Refused(WorkerError.ALREADY_DECLARED, TaskState.RUNNING, 1) == answer
    assert before == everything(store)
    store.end(claim)
    answer = store.declare(declaration(claim, Declared.FAIL, reason="after all"), now=later(2))
    assert (WorkerError.ALREADY_DECLARED, store.task(claim.task_id).state) == (
        answer.error,
        answer.state,
    )


def test_an_ending_run_declares_nothing(store: OneByOne, claim: Claim) -> None:
    store.begin_ending(claim.run_uid, Outcome.CANCELLED, "operator", now=NOW)

    assert WorkerError.NOT_OWNER is store.declare(declaration(claim), now=NOW).error


def test_r56_a_million_beats_are_one_row(store: OneByOne, claim: Claim) -> None:
    for tick in range(100):  # a row for each would show after a hundred as after a million
        store.heartbeat([beat(claim)], now=later(tick))

    assert [1, 1] == [len(rows) for rows in everything(store)]
