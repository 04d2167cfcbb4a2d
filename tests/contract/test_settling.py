import pytest
from msgspec.structs import asdict

from dispatcher.execution import RetryPolicy, StartedRun
from dispatcher.model import Node, Outcome, Run, TaskState
from dispatcher.wire import Exit
from tests.contract.helpers import NODE, NOW, TTL, OneByOne, later, new_task

DEFAULT = asdict(RetryPolicy())


POLICY = RetryPolicy(
    max_deferrals=0, max_orphans=1, backoff_min_ms=2, backoff_max_ms=3, cooldown_ms=4
)


@pytest.mark.parametrize("policy", [POLICY, RetryPolicy(), RetryPolicy(max_orphans=0)])
def test_a_run_has_the_retry_policy_of_its_submit_single_or_bulk(
    store: OneByOne, policy: RetryPolicy
) -> None:
    """The default stores nothing, and a part of it leaves the rest at the default."""
    given = {name: value for name, value in asdict(policy).items() if value != DEFAULT[name]}
    store.new(**given)
    store.stage("bulk", 0, [new_task(**given)], now=NOW)
    store.accept("bulk", now=NOW)
    store.admit("bulk", now=NOW)

    claims = store.take(limit=2)

    assert [policy] * 2 == [store.open_run(claim.run_uid).retry for claim in claims]
    assert [policy] * 2 == [run.retry for run in store.open_runs(NODE)]
    for name in DEFAULT:
        assert given.get(name) == store.column(name, claims[0].task_id)


def test_a_settle_closes_the_run_and_moves_the_task(store: OneByOne) -> None:
    claim = store.claimed()
    with store.raw.transaction():
        store.sql("UPDATE runs SET last_heartbeat_at = 17, progress = 0.25, note = 'quarter'")

    settled = store.end(
        claim,
        outcome=Outcome.FAILED,
        run_reason="exit 3",
        state=TaskState.SCHEDULED,
        reason="again in 10 s",
        run_at=later(10_000),
        attempts_used=1,
        deferrals=2,
        orphans=3,
        exit_code=3,
        signal=None,
        output_tail="oh no\n",
        max_rss_bytes=4096,
        cpu_seconds=1.5,
        pid=42,
        started_at=later(1),
        ended_at=later(8),
        now=later(9),
    )

    expected = Run(
        id=claim.run_id,
        uid=claim.run_uid,
        task_id=claim.task_id,
        attempt=1,
        fence=1,
        outcome=Outcome.FAILED,
        reason="exit 3",
        exit_code=3,
        signal=None,
        pid=42,
        node=NODE,
        claimed_at=NOW,
        started_at=later(1),
        ended_at=later(8),
        last_heartbeat_at=17,
        lease_expires_at=later(TTL),
        progress=0.25,
        note="quarter",
        result=None,
        error="exit 3",
        output_tail="oh no\n",
        max_rss_bytes=4096,
        cpu_seconds=1.5,
        output_path=claim.output_path,
    )
    task = store.task(claim.task_id)
    assert settled
    assert [expected] == store.runs(claim.task_id)
    assert (task.state, task.reason) == (TaskState.SCHEDULED, "again in 10 s")
    assert (later(10_000), 1, 2, 3) == (
        task.run_at,
        task.attempts_used,
        task.deferrals,
        task.orphans,
    )
    assert None is task.finished_at


def test_a_settled_task_holds_no_claim(store: OneByOne) -> None:
    claim = store.claimed()
    store.begin_ending(claim.run_uid, Outcome.CANCELLED, "no", now=NOW)
    store.end(claim, outcome=Outcome.CANCELLED, state=TaskState.CANCELLED)

    assert store.column("run_uid", claim.task_id) is None
    assert store.lease("uid", claim.task_id) is None
    assert store.task(claim.task_id).ending is None


def test_the_second_settle_writes_nothing(store: OneByOne) -> None:
    claim = store.claimed()
    store.end(claim)
    before = store.task(claim.task_id), store.runs(claim.task_id)

    again = store.end(claim, outcome=Outcome.FAILED, state=TaskState.FAILED, now=later(9))

    assert not again
    assert before == (store.task(claim.task_id), store.runs(claim.task_id))


def test_a_settle_of_an_old_run_cannot_touch_its_successor(store: OneByOne) -> None:
    old = store.claimed()
    store.end(old, outcome=Outcome.ORPHANED, state=TaskState.READY)
    (new,) = store.take("own")

    assert not store.end(old, now=later(1))

    assert TaskState.RUNNING is store.task(old.task_id).state
    assert new.lock == store.lease("lock", old.task_id)


def test_facts_that_the_settlement_does_not_carry_stay_as_recorded(store: OneByOne) -> None:
    claim = store.claimed()
    store.record_started([StartedRun(uid=claim.run_uid, pid=42, at=later(1))], now=NOW)
    store.record_leader_exits({claim.run_uid: Exit(at=0.0, exit_code=3)}, now=NOW)

    store.end(claim)

    (run,) = store.runs(claim.task_id)
    assert (42, later(1), 3) == (run.pid, run.started_at, run.exit_code)


def test_without_a_time_the_task_keeps_its_own(store: OneByOne) -> None:
    claim = store.claimed()

    store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY, run_at=None)

    assert store.task(claim.task_id).run_at == NOW


@pytest.mark.parametrize(
    ("state", "finished_at"),
    [
        (TaskState.SUCCEEDED, later(9)),
        (TaskState.FAILED, later(9)),
        (TaskState.CANCELLED, later(9)),
        (TaskState.READY, None),
        (TaskState.SCHEDULED, None),
        (TaskState.HELD, None),
    ],
)
def test_a_task_is_finished_exactly_in_a_final_state(
    store: OneByOne, state: TaskState, finished_at: int | None
) -> None:
    claim = store.claimed()

    store.end(claim, state=state, now=later(9))

    assert finished_at == store.task(claim.task_id).finished_at


@pytest.mark.parametrize("outcome", Outcome)
def test_a_run_has_an_error_when_something_went_wrong(store: OneByOne, outcome: Outcome) -> None:
    claim = store.claimed()

    store.end(claim, outcome=outcome, run_reason="the reason", state=TaskState.HELD)

    (run,) = store.runs(claim.task_id)
    fine = outcome.value in ("succeeded", "cancelled", "released", "deferred", "held")
    assert (outcome, "the reason") == (run.outcome, run.reason)
    assert (None if fine else "the reason") == run.error


# The rest of the daemon's work -------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "unfinished"),
    [
        (TaskState.READY, True),
        (TaskState.SCHEDULED, True),
        (TaskState.HELD, False),
        (TaskState.SUCCEEDED, False),
        (TaskState.FAILED, False),
        (TaskState.CANCELLED, False),
    ],
)
def test_tasks_that_may_still_run_by_themselves_are_unfinished(
    store: OneByOne, state: TaskState, *, unfinished: bool
) -> None:
    assert not store.has_unfinished()

    claim = store.claimed()
    assert store.has_unfinished()

    store.end(claim, state=state)
    assert unfinished is store.has_unfinished()


def test_unfinished_may_leave_out_queues(store: OneByOne) -> None:
    store.new(queue="a")
    store.new(queue="b", delay_ms=1)

    assert store.has_unfinished(but=["a"])
    assert store.has_unfinished(but=["ab", "b"])
    assert not store.has_unfinished(but=["a", "b"])
    store.take("a")
    assert not store.has_unfinished(but=["b", "a"])


def test_a_nodes_row_is_written_and_overwritten(store: OneByOne) -> None:
    first = Node(
        id="n",
        boot_id="b",
        pid_namespace="p",
        hostname="h",
        slots=4,
        seen_at=NOW,
        seen_interval_ms=5_000,
    )
    second = Node(
        id="n",
        boot_id="b2",
        pid_namespace="p2",
        hostname="h2",
        slots=8,
        seen_at=later(1),
        seen_interval_ms=60_000,
        listen="tls://h2:7373",
    )
    store.record_node(first)
    assert [first] == list(store.nodes())

    store.record_node(second)
    assert [second] == list(store.nodes())


def test_leftovers_and_truncated_bytes_are_kept_with_their_run(store: OneByOne) -> None:
    bare, rich = store.claimed(), store.claimed()
    store.end(bare)
    store.end(rich, left_alone=("sleep (7)",), leftovers=("sh", "sleep"), output_truncated=2**40)

    ((one,), (other,)) = (store.runs(claim.task_id) for claim in (bare, rich))
    assert ((), (), 0) == (one.left_alone, one.leftovers, one.output_truncated)
    assert (("sleep (7)",), ("sh", "sleep"), 2**40) == (
        other.left_alone,
        other.leftovers,
        other.output_truncated,
    )
