"""What a resting daemon asks: whether the store has work that a tick would find, and when."""

from collections.abc import Callable

import pytest

from dispatcher.model import Node, Outcome
from dispatcher.store.submits import CONTINUE_AFTER, GONE_AFTER
from dispatcher.times import StoreTime
from tests.contract.helpers import NODE, NOW, OneByOne, later, new_task

OTHER = "node-2"
ROW = Node(
    id=NODE, boot_id="b", pid_namespace="p", hostname="h", slots=1, seen_at=NOW, seen_interval_ms=1
)

#: Prepares a store; returns when a node has work there, in milliseconds from now; None: never.
Case = Callable[[OneByOne], int | None]


def nothing(store: OneByOne) -> None:
    store.finished()
    store.hold(store.new(), "why", now=NOW)


def a_task_is_ready(store: OneByOne) -> int:
    store.new(delay_ms=9)
    store.new()
    return 0


def a_task_in_a_paused_queue(store: OneByOne) -> None:
    store.new(queue="own")
    store.pause("own", "why", now=NOW)


def a_task_for_a_node_that_drains(store: OneByOne) -> None:
    store.new()
    store.record_node(ROW)
    store.drain_node(NODE, "why", now=NOW)


def a_delay(store: OneByOne) -> int:
    store.new(delay_ms=9)
    store.new(delay_ms=7)
    return 7


def a_delay_that_is_over(store: OneByOne) -> int:
    store.new(delay_ms=7)
    with store.raw.transaction():
        store.sql(f"UPDATE tasks SET run_at = {NOW} RETURNING id")
    return 0


def a_time_out_of_a_task_that_waits(store: OneByOne) -> int:
    store.new(delay_ms=900, total_timeout_ms=500)
    return 500


def a_claim_of_its_own(store: OneByOne) -> None:
    store.claimed(until=later(5))


def a_claim_of_another_node(store: OneByOne) -> int | None:
    store.claimed(node=OTHER, until=later(5), kill_grace_ms=0)
    return 5 if store.raw.engine.dialect.shared else 0


def a_claim_that_may_be_taken_over(store: OneByOne) -> int:
    store.claimed(node=OTHER, until=NOW, kill_grace_ms=0)
    return 0


def a_claim_of_another_node_for_ever(store: OneByOne) -> int | None:
    store.claimed(node=OTHER)
    return None if store.raw.engine.dialect.shared else 0


def _local(store: OneByOne) -> str:
    store.new(queue="own", lease_ttl_ms=1_000)
    claim = store.claim_local(queue="own", owner="local:me", output_dir="/out", now=NOW)
    return str(claim.run_uid)


def a_local_claim(store: OneByOne) -> int:
    _local(store)
    return 1_000


def a_local_claim_that_ends(store: OneByOne) -> int:
    store.begin_ending(_local(store), Outcome.CANCELLED, "why", now=NOW)
    return 0


def a_bulk_submit_that_goes_on(store: OneByOne) -> None:
    store.stage("bulk", 0, [new_task()], now=NOW)
    store.accept("bulk", now=NOW)


def a_bulk_submit_whose_client_is_gone(store: OneByOne) -> int:
    store.stage("bulk", 0, [new_task()], now=later(-CONTINUE_AFTER - 1))
    store.accept("bulk", now=later(-CONTINUE_AFTER - 1))
    return 0


def a_bulk_submit_that_was_never_accepted(store: OneByOne) -> int:
    store.stage("bulk", 0, [new_task()], now=later(-GONE_AFTER - 1))
    return 0


CASES: list[Case] = [
    nothing,
    a_task_is_ready,
    a_task_in_a_paused_queue,
    a_task_for_a_node_that_drains,
    a_delay,
    a_delay_that_is_over,
    a_time_out_of_a_task_that_waits,
    a_claim_of_its_own,
    a_claim_of_another_node,
    a_claim_that_may_be_taken_over,
    a_claim_of_another_node_for_ever,
    a_local_claim,
    a_local_claim_that_ends,
    a_bulk_submit_that_goes_on,
    a_bulk_submit_whose_client_is_gone,
    a_bulk_submit_that_was_never_accepted,
]


def found_by_a_tick(store: OneByOne) -> bool:
    """Return whether any of the searches of a tick finds something now."""
    due, fails_at = store.next_due(), store.next_failure()
    return bool(
        store.ready_queues(after="", limit=9, node=NODE)
        or (due is not None and due <= NOW)
        or (fails_at is not None and fails_at <= NOW)
        or store.abandoned(limit=9, now=NOW)
        or store.stranded(NODE, now=NOW)
        or store.continue_silent(now=NOW)
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_question_finds_what_a_tick_finds_and_the_next_time(
    store: OneByOne, case: Case
) -> None:
    wanted = case(store)

    found: StoreTime | None = store.next_work(NODE, now=NOW)

    assert wanted == (None if found is None else found - NOW)
    assert found_by_a_tick(store) is (wanted == 0)


def test_tasks_that_require_labels_are_work_for_who_has_them(store: OneByOne) -> None:
    gpu, zone = {"gpu": "a100"}, {"zone": "b"}
    store.new(queue="a", requires=gpu)
    store.new(queue="b", requires={**gpu, **zone})
    store.new(queue="c", requires=zone)
    store.new(delay_ms=9)
    store.pause("c", "why", now=NOW)

    assert later(9) == store.next_work(NODE, now=NOW)
    assert later(9) == store.next_work(NODE, labels=zone, now=NOW)
    assert NOW == store.next_work(NODE, labels=gpu, now=NOW)
    store.pause("a", "why", now=NOW)
    assert later(9) == store.next_work(NODE, labels=gpu, now=NOW)
    assert NOW == store.next_work(NODE, labels={**gpu, **zone}, now=NOW)
    store.new(queue="d")
    assert NOW == store.next_work(NODE, now=NOW)


def test_the_question_locks_nothing(store: OneByOne) -> None:
    _local(store)
    store.claimed(node=OTHER, until=NOW, kill_grace_ms=0)
    a_bulk_submit_whose_client_is_gone(store)

    with store.raw.snapshot():
        assert NOW == store.raw.next_work(NODE, now=NOW)


def test_whoever_has_the_nodes_row_now_has_the_work(store: OneByOne) -> None:
    store.new()
    store.record_node(ROW)

    assert NOW == store.next_work(NODE, now=NOW)
    assert store.next_work(NODE, "another session", now=NOW) is None
