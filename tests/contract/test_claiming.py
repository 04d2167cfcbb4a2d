import pytest

from dispatcher.execution import Claim
from dispatcher.model import Liveness, Outcome, TaskState
from tests.contract.helpers import NODE, NOW, TTL, OneByOne, later


def test_a_claim_carries_all_it_takes_to_start_the_task(store: OneByOne) -> None:
    task_id = store.new(
        command=("a", "b"),
        payload="{}",
        cwd="/srv",
        env={"A": "1"},
        liveness=Liveness.WORKER,
        queue="q",
    )

    (claim,) = store.take("q", now=later(5))

    expected = Claim(
        task_id=task_id,
        run_id=claim.run_id,
        run_uid=claim.run_uid,
        fence=1,
        lock=claim.lock,
        attempt=1,
        queue="q",
        command=("a", "b"),
        payload="{}",
        cwd="/srv",
        env={"A": "1"},
        liveness=Liveness.WORKER,
        lease_ttl_ms=TTL,
        lease_expires_at=later(5 + TTL),
        output_path=f"/out/{claim.run_uid}.log",
        last_outcome=None,
        earlier_output_paths=(),
    )
    assert expected == claim


def test_uid_and_lock_are_128_random_bits_and_differ(store: OneByOne) -> None:
    store.new()
    store.new()

    claims = store.take(limit=2)

    secrets = {claim.run_uid for claim in claims} | {claim.lock for claim in claims}
    assert [len(bytes.fromhex(secret)) * 2 for secret in secrets] == [32] * 4


def test_a_claim_opens_a_run_and_makes_the_task_running(store: OneByOne) -> None:
    claim = store.claimed()

    (run,) = store.runs(claim.task_id)
    task = store.task(claim.task_id)

    assert (claim.run_id, claim.run_uid, 1, 1) == (run.id, run.uid, run.attempt, run.fence)
    assert (NODE, NOW, claim.output_path) == (run.node, run.claimed_at, run.output_path)
    assert (run.outcome, run.started_at, run.ended_at) == (None, None, None)
    assert later(TTL) == run.lease_expires_at
    assert (task.state, task.fence, task.attempts_used) == (TaskState.RUNNING, 1, 0)
    assert task.reason


def test_the_run_keeps_its_original_lock(store: OneByOne) -> None:
    claim = store.claimed()
    store.begin_ending(claim.run_uid, Outcome.CANCELLED, "no", now=NOW)

    with store.raw.transaction():
        rows = store.sql("SELECT lock FROM runs WHERE uid = :uid", {"uid": claim.run_uid})

    assert [(claim.lock,)] == rows


def test_priority_goes_first_then_age(store: OneByOne) -> None:
    old, urgent, young, late = (store.new(priority=p) for p in (0, 5, 0, -5))

    order = [claim.task_id for claim in store.take(limit=10)]

    assert [urgent, old, young, late] == order


def test_no_more_than_the_limit_is_claimed(store: OneByOne) -> None:
    for _ in range(5):
        store.new()

    assert len(store.take(limit=3)) == 3
    assert len(store.take(limit=3)) == 2
    assert store.take(limit=3) == []


def test_only_ready_tasks_of_the_queue_are_claimed(store: OneByOne) -> None:
    store.new(queue="other")
    store.new(delay_ms=1)
    store.finished(queue="default")
    store.claimed(queue="default")

    assert store.take() == []


@pytest.mark.parametrize("node", [NODE, "node-2"])
def test_a_second_claim_has_a_new_lock_the_next_fence_and_knows_the_last_run(
    store: OneByOne, node: str
) -> None:
    first = store.claimed()
    store.end(
        first, outcome=Outcome.LOST, state=TaskState.READY, attempts_used=1, reason="it fell silent"
    )

    (second,) = store.take("own", node=node)

    assert (second.fence, second.attempt) == (2, 2)
    assert first.lock != second.lock
    assert first.run_uid != second.run_uid
    assert Outcome.LOST is second.last_outcome
    assert ((first.output_path,) if node == NODE else ()) == second.earlier_output_paths


def test_a_claim_names_every_earlier_run_that_may_have_had_a_process(store: OneByOne) -> None:
    """A refused start has no process and no output: it hides nothing of the runs before it."""
    first = store.claimed()
    store.end(first, outcome=Outcome.FAILED, state=TaskState.READY, pid=11)
    (second,) = store.take("own")
    store.end(second, outcome=Outcome.ORPHANED, state=TaskState.READY)
    (refused,) = store.take("own")
    store.end(refused, outcome=Outcome.RELEASED, state=TaskState.READY)
    (unstartable,) = store.take("own")
    store.end(unstartable, outcome=Outcome.SPAWN_FAILED, state=TaskState.READY)
    (drained,) = store.take("own")
    store.end(drained, outcome=Outcome.RELEASED, state=TaskState.READY, pid=12)

    (last,) = store.take("own")

    assert (Outcome.RELEASED, (drained.output_path, second.output_path, first.output_path)) == (
        last.last_outcome,
        last.earlier_output_paths,
    )


def test_an_uncounted_run_keeps_the_number_of_its_attempt(store: OneByOne) -> None:
    first = store.claimed()
    store.end(first, outcome=Outcome.RELEASED, state=TaskState.READY, attempts_used=0)

    (second,) = store.take("own")

    assert (second.attempt, second.fence) == (1, 2)


def test_nothing_of_the_last_run_is_left_on_the_row(store: OneByOne) -> None:
    claim = store.claimed()
    with store.raw.transaction():
        store.sql("UPDATE runs SET last_heartbeat_at = 1, progress = 0.5, note = 'half'")
    store.begin_ending(claim.run_uid, Outcome.RELEASED, "drain", now=NOW)
    store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY)

    store.take("own")

    columns = ("last_heartbeat_at", "progress", "note", "ending", "ending_reason", "takeover_at")
    assert [store.lease(name, claim.task_id) for name in columns] == [None] * 6


def test_a_released_task_stands_at_the_front_of_its_priority(store: OneByOne) -> None:
    first, _ = store.new(), store.new()
    (claim,) = store.take()
    store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY)

    assert [first] == [claim.task_id for claim in store.take()]


def test_secrets_are_not_in_the_repr_of_a_claim(store: OneByOne) -> None:
    claim = store.claimed(env={"TOKEN": "hush"}, payload='"hush"')

    assert claim.lock not in repr(claim)
    assert "hush" not in repr(claim)


# Due tasks ---------------------------------------------------------------------------------


def test_due_tasks_become_ready_earliest_first_and_no_more_than_the_limit(
    store: OneByOne,
) -> None:
    late, early, future = (store.new(delay_ms=d) for d in (20, 10, 1_000))

    moved = store.move_due(limit=1, now=later(20))

    assert moved == 1
    assert [store.states()[t] for t in (late, early)] == [TaskState.SCHEDULED, TaskState.READY]
    assert store.move_due(limit=10, now=later(20)) == 1
    assert store.move_due(limit=10, now=later(20)) == 0
    assert TaskState.SCHEDULED is store.states()[future]


def test_a_task_is_due_at_its_very_millisecond(store: OneByOne) -> None:
    store.new(delay_ms=10)

    assert store.move_due(limit=1, now=later(9)) == 0
    assert store.move_due(limit=1, now=later(10)) == 1


def test_a_due_task_gets_a_new_reason(store: OneByOne) -> None:
    claim = store.claimed()
    store.end(
        claim, outcome=Outcome.FAILED, state=TaskState.SCHEDULED, reason="again", run_at=later(9)
    )
    store.move_due(limit=1, now=later(9))

    assert store.task(claim.task_id).reason not in ("again", "")


def test_the_next_due_time_is_the_earliest_of_scheduled_tasks(store: OneByOne) -> None:
    assert None is store.next_due()

    store.new()
    store.new(delay_ms=30)
    store.new(delay_ms=20)

    assert later(20) == store.next_due()


# Queues ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [
        ("", 10, ["a", "b", "d"]),
        ("a", 10, ["b", "d", "a"]),
        ("b", 2, ["d", "a"]),
        ("c", 10, ["d", "a", "b"]),
        ("d", 10, ["a", "b", "d"]),
        ("zzz", 1, ["a"]),
        ("a", 1, ["b"]),
        ("a", 2, ["b", "d"]),
    ],
)
def test_ready_queues_go_round_from_behind_the_last_one_served(
    store: OneByOne, after: str, limit: int, expected: list[str]
) -> None:
    for queue in ("b", "d", "a", "b"):
        store.new(queue=queue)

    assert expected == store.ready_queues(after=after, limit=limit)


def test_a_queue_without_ready_tasks_is_not_named(store: OneByOne) -> None:
    store.new(queue="later", delay_ms=1)
    store.claimed(queue="busy")
    store.finished(queue="done")

    assert store.ready_queues(after="", limit=10) == []


def test_r47_every_queue_gets_its_turn(store: OneByOne) -> None:
    for queue in "abc":
        for _ in range(2):
            store.new(queue=queue)

    served, last = [], ""
    for _ in range(6):
        (last,) = store.ready_queues(after=last, limit=1)
        store.take(last)
        served.append(last)

    assert list("abcabc") == served
