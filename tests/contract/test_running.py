from dispatcher.execution import BegunEnding, OpenRun, StartedRun
from dispatcher.model import Intent, Liveness, Outcome, TaskState
from dispatcher.wire import Exit, RunUid
from dispatcher.words import Beat, Refused
from dispatcher.worker_api import WorkerError
from tests.contract.helpers import NODE, NOW, TTL, OneByOne, later

NOBODY = RunUid("0" * 32)


# What is recorded of an open run -----------------------------------------------------------


def test_a_start_is_recorded_and_the_lease_begins_anew(store: OneByOne) -> None:
    claim = store.claimed()

    assert store.record_started([StartedRun(uid=claim.run_uid, pid=42, at=later(5))], now=later(7))

    (run,) = store.runs(claim.task_id)
    assert (42, later(5), later(7 + TTL)) == (run.pid, run.started_at, run.lease_expires_at)


def test_a_start_touches_no_other_run(store: OneByOne) -> None:
    claim, other = store.claimed(), store.claimed()

    store.record_started([StartedRun(uid=claim.run_uid, pid=42, at=NOW)], now=later(7))

    (run,) = store.runs(other.task_id)
    assert (None, None, later(TTL)) == (run.pid, run.started_at, run.lease_expires_at)


def test_the_leaders_exit_is_recorded_and_the_run_stays_open(store: OneByOne) -> None:
    claim = store.claimed()

    assert store.record_leader_exits({claim.run_uid: Exit(at=0.0, exit_code=3)}, now=NOW)

    run = store.open_run(claim.run_uid)
    assert (run.exit_code, run.signal) == (3, None)


def test_nothing_is_recorded_of_a_closed_run(store: OneByOne) -> None:
    claim = store.claimed()
    store.end(claim)
    before = store.runs(claim.task_id)

    assert not store.record_started([StartedRun(uid=claim.run_uid, pid=42, at=NOW)], now=NOW)
    assert not store.record_leader_exits(
        {claim.run_uid: Exit(at=0.0, exit_code=1, signal=9)}, now=NOW
    )
    assert before == store.runs(claim.task_id)


def test_nothing_is_recorded_of_an_unknown_run(store: OneByOne) -> None:
    assert not store.record_started([StartedRun(uid=NOBODY, pid=42, at=NOW)], now=NOW)
    assert not store.record_leader_exits({NOBODY: Exit(at=0.0, exit_code=1)}, now=NOW)


def test_a_late_start_of_an_old_run_leaves_its_successors_lease_alone(store: OneByOne) -> None:
    old = store.claimed()
    store.end(old, outcome=Outcome.ORPHANED, state=TaskState.READY)
    store.take("own", now=later(1))

    store.record_started([StartedRun(uid=old.run_uid, pid=42, at=NOW)], now=later(999))

    assert later(1 + TTL) == store.lease("lease_expires_at", old.task_id)


# Open runs ---------------------------------------------------------------------------------


def test_an_open_run_carries_what_it_takes_to_settle_it(store: OneByOne) -> None:
    first = store.claimed(liveness=Liveness.WORKER, max_attempts=9)
    store.end(
        first, outcome=Outcome.LOST, state=TaskState.READY, attempts_used=1, deferrals=2, orphans=3
    )
    (claim,) = store.take("own")
    store.record_started([StartedRun(uid=claim.run_uid, pid=42, at=NOW)], now=NOW)
    store.record_leader_exits({claim.run_uid: Exit(at=0.0, signal=9)}, now=NOW)
    store.begin_ending(claim.run_uid, Outcome.TIMED_OUT, "ran for 1 h", now=NOW)
    store.hold(claim.task_id, "look at it", now=NOW)

    expected = OpenRun(
        task_id=claim.task_id,
        run_id=claim.run_id,
        run_uid=claim.run_uid,
        fence=2,
        attempt=2,
        queue="own",
        liveness=Liveness.WORKER,
        lease_ttl_ms=TTL,
        ending=Outcome.TIMED_OUT,
        ending_reason="ran for 1 h",
        pid=42,
        exit_code=None,
        signal=9,
        attempts_used=1,
        max_attempts=9,
        deferrals=2,
        orphans=3,
        owner=NODE,
        output_path=claim.output_path,
        intent=Intent.HOLD,
        intent_reason="look at it",
        lease_expires_at=later(TTL),
    )
    assert expected == store.open_run(claim.run_uid)
    assert [expected] == store.open_runs(NODE)
    ending = BegunEnding(claim.run_uid, expected.ending, expected.ending_reason)
    assert [ending] == store.endings(NODE)


def test_a_closed_or_unknown_run_is_not_open(store: OneByOne) -> None:
    claim = store.claimed()
    store.end(claim)

    assert None is store.open_run(claim.run_uid)
    assert None is store.open_run(NOBODY)
    assert store.open_runs(NODE) == []


def test_a_nodes_open_runs_come_oldest_first_and_are_its_own(store: OneByOne) -> None:
    older, newer = store.new(queue="q", priority=0), store.new(queue="q", priority=9)
    claims = store.take("q", limit=2)
    store.claimed(node="node-2")

    runs = store.open_runs(NODE)

    assert [newer, older] == [run.task_id for run in runs]
    assert [claim.run_uid for claim in claims] == [run.run_uid for run in runs]


# Endings -----------------------------------------------------------------------------------


def test_an_ending_ends_what_the_lock_allows(store: OneByOne) -> None:
    claim = store.claimed()

    assert store.begin_ending(claim.run_uid, Outcome.LOST, "silent for 60 s", now=NOW)

    answer = store.heartbeat([Beat(task_id=claim.task_id, lock=claim.lock)], now=NOW)[0]
    assert Refused(WorkerError.NOT_OWNER, TaskState.RUNNING, 1) == answer
    task = store.task(claim.task_id)
    assert (task.state, task.ending) == (TaskState.RUNNING, Outcome.LOST)
    assert task.reason == "silent for 60 s"


def test_the_first_ending_wins(store: OneByOne) -> None:
    claim = store.claimed()
    store.begin_ending(claim.run_uid, Outcome.LOST, "first", now=NOW)

    assert not store.begin_ending(claim.run_uid, Outcome.CANCELLED, "second", now=NOW)

    run = store.open_run(claim.run_uid)
    assert (run.ending, run.ending_reason) == (Outcome.LOST, "first")


def test_a_closed_or_unknown_run_is_not_ended(store: OneByOne) -> None:
    old = store.claimed()
    store.end(old, outcome=Outcome.ORPHANED, state=TaskState.READY)
    store.take("own")

    assert not store.begin_ending(old.run_uid, Outcome.LOST, "late", now=NOW)
    assert not store.begin_ending(NOBODY, Outcome.LOST, "late", now=NOW)
    assert None is store.task(old.task_id).ending


def test_endings_are_the_nodes_own_oldest_first(store: OneByOne) -> None:
    claims = [store.claimed() for _ in range(3)]
    foreign = store.claimed(node="node-2")
    for claim in (claims[2], foreign, claims[0]):
        store.begin_ending(claim.run_uid, Outcome.RELEASED, "drain", now=NOW)

    ended = [run.run_uid for run in store.endings(NODE)]

    assert [claims[0].run_uid, claims[2].run_uid] == ended


def test_of_endings_some_may_be_asked_for(store: OneByOne) -> None:
    claims = [store.claimed() for _ in range(3)]
    for claim in claims[:2]:
        store.begin_ending(claim.run_uid, Outcome.RELEASED, "drain", now=NOW)
    some = {claims[1].run_uid, claims[2].run_uid}

    assert [claims[1].run_uid] == [run.run_uid for run in store.endings(NODE, among=some)]
    assert [] == store.endings(NODE, among=())
