"""Events: every move of a task, and every operator's action, with who and why."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import policy
from dispatcher.errors import StoreRefused
from dispatcher.events import UNKNOWN, WORKER, EventKind, Ledger, StoreEvent, node_actor
from dispatcher.execution import LOCAL
from dispatcher.host.owner import acting_user
from dispatcher.model import Declared, Node, Outcome, TaskState
from dispatcher.operations.events import Follower
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.store.statements import moves
from dispatcher.times import Instant
from dispatcher.words import Declaration
from tests.contract.helpers import NODE, NOW, SHARED, OneByOne, later, new_task, settlement

K = EventKind
S = TaskState

#: Above every id.
END = 2**62


def told(store: OneByOne, task_id: int) -> list[tuple[object, ...]]:
    """Return what the store tells of a task."""
    return [
        (one.kind, one.before, one.after, one.fence, one.reason)
        for one in store.task_events(task_id)
    ]


def last(store: OneByOne) -> StoreEvent:
    (event,) = store.last_events(Ledger.EVENTS, before=END, limit=1)
    assert isinstance(event, StoreEvent)
    return event


def test_a_task_from_its_submit_to_its_end(store: OneByOne) -> None:
    task_id = store.new(delay_ms=5)
    store.move_due(limit=9, now=later(5))
    (claim,) = store.take(now=later(6))
    back = {"state": S.SCHEDULED, "reason": "back-off", "outcome": Outcome.FAILED}
    store.end(claim, now=later(7), run_at=later(8), **back)
    store.move_due(limit=9, now=later(8))
    (claim,) = store.take(now=later(8))
    store.end(claim, now=later(9))

    assert [
        (K.SUBMIT, None, S.SCHEDULED, 0, None),
        (K.DUE, S.SCHEDULED, S.READY, 0, "its time has come"),
        (K.CLAIM, S.READY, S.RUNNING, 1, None),
        (K.SETTLE, S.RUNNING, S.SCHEDULED, 1, "back-off"),
        (K.DUE, S.SCHEDULED, S.READY, 1, "its time has come"),
        (K.CLAIM, S.READY, S.RUNNING, 2, None),
        (K.SETTLE, S.RUNNING, S.SUCCEEDED, 2, "it succeeded"),
    ] == told(store, task_id)
    times = [one.at for one in store.task_events(task_id)]
    assert [NOW, *map(later, (5, 6, 7, 8, 8, 9))] == times


def test_an_operators_moves(store: OneByOne) -> None:
    task_id = store.new()
    store.hold(task_id, "disk is full", now=NOW)
    store.hold(task_id, "still full", now=NOW)
    store.release(task_id, now=NOW)
    store.cancel(task_id, "not needed", now=NOW)
    store.retry(task_id, now=NOW)

    assert [
        (K.HOLD, S.READY, S.HELD, 0, "disk is full"),
        (K.HOLD, S.HELD, S.HELD, 0, "still full"),
        (K.RELEASE, S.HELD, S.READY, 0, "released by operator"),
        (K.CANCEL, S.READY, S.CANCELLED, 0, "not needed"),
        (K.RETRY, S.CANCELLED, S.READY, 0, "retried by operator"),
    ] == told(store, task_id)[1:]


def test_a_task_that_is_given_up(store: OneByOne) -> None:
    task_id = store.new(total_timeout_ms=5)
    store.give_up(limit=9, now=later(5))

    (_, given_up) = told(store, task_id)
    assert (K.GIVE_UP, S.READY, S.FAILED, 0) == given_up[:4]
    assert str(given_up[4]).startswith("total_timeout")


def test_what_a_verb_does_to_a_running_task_is_told_at_once_and_where_it_goes_later(
    store: OneByOne,
) -> None:
    claim = store.claimed()
    store.cancel(claim.task_id, "not needed", now=NOW)
    store.retry(claim.task_id, now=NOW)
    store.end(claim, outcome=Outcome.CANCELLED, state=S.READY, reason="retried")

    assert [
        (K.CANCEL, S.RUNNING, None, 1, "not needed"),
        (K.RETRY, S.RUNNING, None, 1, "retried by operator"),
        (K.SETTLE, S.RUNNING, S.READY, 1, "retried"),
    ] == told(store, claim.task_id)[2:]


def test_an_edit_names_what_it_changed(store: OneByOne) -> None:
    task_id = store.new()
    task = store.task(task_id)
    assert store.edit(task, replace(task, priority=3, queue="ci"), now=NOW)

    assert (K.EDIT, S.READY, S.READY, 0, "priority, queue") == told(store, task_id)[-1]
    (event, _) = store.last_events(Ledger.EVENTS, before=END, limit=9)
    assert "ci" == event.queue


def node(store: OneByOne) -> None:
    facts = {"boot_id": "b", "pid_namespace": "p", "hostname": "web-1", "slots": 1}
    store.record_node(Node(id=NODE, seen_at=NOW, seen_interval_ms=1, **facts))


#: What is done without a task, and its event.
ACTIONS: dict[EventKind, tuple[Callable[[OneByOne], Any], str, str | None]] = {
    K.PAUSE: (lambda s: s.pause("ci", "upgrade", now=NOW), "ci", "upgrade"),
    K.RESUME: (lambda s: s.resume("ci", now=NOW), "ci", None),
    K.NODE_DRAIN: (lambda s: s.drain_node(NODE, "new kernel", now=NOW), NODE, "new kernel"),
    K.NODE_RESUME: (lambda s: s.resume_node(NODE, now=NOW), NODE, None),
    K.NODE_FORGET: (lambda s: s.forget_node(NODE, now=later(10)), NODE, "web-1"),
}


def test_what_operators_do_to_queues_and_nodes(store: OneByOne) -> None:
    node(store)
    for kind, (do, subject, reason) in ACTIONS.items():
        assert do(store)
        event = last(store)
        assert (kind, subject, reason) == (event.kind, event.subject, event.reason)
        assert (None, None, acting_user()) == (event.task_id, event.after, event.who)


@pytest.mark.parametrize("kind", [K.RESUME, K.NODE_DRAIN, K.NODE_RESUME, K.NODE_FORGET])
def test_what_changes_nothing_is_no_event(store: OneByOne, kind: EventKind) -> None:
    do, *_ = ACTIONS[kind]

    assert not do(store)

    assert [] == store.last_events(Ledger.EVENTS, before=END, limit=9)


def test_moves_that_write_nothing_are_no_events(store: OneByOne) -> None:
    store.new(key="a")
    done = store.finished()
    before = [told(store, one) for one in (1, done)]

    store.submit([new_task(key="a")], now=NOW)
    store.cancel(done, "too late", now=NOW)
    store.retry(1, now=NOW)
    store.release(1, now=NOW)
    store.cancel(99, "unknown", now=NOW)
    store.settle([settlement(store.claimed(), run_uid="another")], now=NOW)

    assert before == [told(store, one) for one in (1, done)]
    assert 4 == len(store.last_events(Ledger.EVENTS, before=END, limit=9))


def test_a_transaction_that_fails_leaves_no_event(store: OneByOne) -> None:
    task_id = store.new()

    def fail() -> None:
        with store.raw.transaction():
            store.raw.hold(task_id, "why", now=NOW)
            store.sql("UPDATE tasks SET state = 'running' WHERE id = :id", {"id": task_id})

    with pytest.raises(StoreRefused):
        fail()

    assert [K.SUBMIT] == [one.kind for one in store.task_events(task_id)]


def test_a_daemon_is_its_node_and_a_command_its_user(store: OneByOne) -> None:
    store.raw.act_as(node_actor("a-node"))
    claim = store.claimed(node="a-node")
    store.end(claim, state=S.READY, outcome=Outcome.RELEASED)
    del store.raw._who
    store.cancel(claim.task_id, "why", now=later(1))

    who = [one.who for one in store.task_events(claim.task_id)]

    assert [*["node:a-node"] * 3, acting_user()] == who


def test_a_settlement_that_its_worker_declared_is_the_workers(store: OneByOne) -> None:
    for number, word in enumerate((Declared.HOLD, None), start=1):
        claim = store.claimed()
        if word is not None:
            facts = {"task_id": claim.task_id, "lock": claim.lock, "reason": "why"}
            store.declare(Declaration(word=word, **facts), now=NOW)
        run = store.open_run(claim.run_uid)
        settled = policy.settle(run, None, now=NOW, ended_at=NOW, rng=Random(1))
        store.settle([settled], now=NOW)
        who = store.task_events(number)[-1].who
        assert (WORKER if word else acting_user()) == who


def test_a_local_claim_names_its_user_once(store: OneByOne) -> None:
    task_id = store.new()
    store.claim_local("default", owner=f"{LOCAL}me", output_dir="/o", now=NOW)

    claims = [one for one in store.task_events(task_id) if one.kind == K.CLAIM]

    assert [acting_user()] == [one.who for one in claims]


def test_a_bulk_submit_is_of_who_began_it_whoever_continues_it(store: OneByOne) -> None:
    for uid, who in (("a", "user:7:alice"), ("b", None)):
        store.raw.act_as("user:7:alice")
        store.stage(uid, 0, [new_task()] * 2, now=NOW)
        store.accept(uid, now=NOW)
        if who is None:  # as by a dispatcher without events
            with store.raw.transaction():
                store.raw.engine.change("UPDATE bulk_submits SET who = NULL")
        store.raw.act_as(node_actor("a-node"))
        store.admit(uid, now=NOW)
        (event, _) = store.last_events(Ledger.EVENTS, before=END, limit=2)
        assert (K.SUBMIT, who or UNKNOWN) == (event.kind, event.who)


def test_events_are_deleted_with_their_task_and_others_by_age(store: OneByOne) -> None:
    claim = store.claimed()
    store.pause("ci", "upgrade", now=later(1))
    store.resume("ci", now=later(9))
    store.end(claim, now=later(2))

    assert 1 == store.prune(before=later(5), limit=9).tasks
    assert [K.RESUME, K.PAUSE] == kinds(store)
    assert 1 == store.prune_events(before=later(5), limit=9)
    assert 0 == store.prune_events(before=later(5), limit=9)
    assert [K.RESUME] == kinds(store)


def kinds(store: OneByOne) -> list[str]:
    return [one.kind for one in store.last_events(Ledger.EVENTS, before=END, limit=9)]


def test_a_task_with_very_many_events_is_pruned_in_bounded_steps(store: OneByOne) -> None:
    task_id = store.new()
    for _ in range(20):
        store.hold(task_id, "why", now=NOW)
        store.release(task_id, now=NOW)
    store.cancel(task_id, "why", now=NOW)

    steps = [store.prune(before=later(1), limit=2) for _ in range(4)]

    assert [(0, True), (0, True), (1, False), (0, False)] == [
        (one.tasks, one.more) for one in steps
    ]
    assert [] == kinds(store)


@pytest.mark.parametrize("ledger", Ledger)
def test_events_are_read_from_both_ends_and_in_gaps(store: OneByOne, ledger: Ledger) -> None:
    for _ in range(4):
        store.claimed()
    if ledger is Ledger.EVENTS:
        assert 4 == len(store.new_events(ledger, after=0, limit=9))

    first, second, third, fourth = store.new_events(ledger, after=0, limit=9)

    assert [fourth, third] == store.last_events(ledger, before=END, limit=2)
    assert [second, first] == store.last_events(ledger, before=third.id, limit=2)
    assert [second] == store.new_events(ledger, after=first.id, limit=1)
    gaps = [range(first.id, second.id), range(third.id, fourth.id)]
    assert [first, third, fourth] == store.new_events(ledger, after=third.id, gaps=gaps, limit=9)


@SHARED
def test_a_follower_reads_what_was_committed_late(
    raw: SqlStore, store: OneByOne, url: str, tmp_path: Path
) -> None:
    first = store.new()
    follower = Follower(raw, at=Instant(0))

    with closing(open_store(url, state_dir=tmp_path / "other", patience=5)) as other:
        with other.transaction():
            late = other.submit([new_task()], now=NOW)[0].task_id
            early = store.new()
            assert [early] == [one.task_id for one in follower.read(Instant(1))]
        assert [late] == [one.task_id for one in follower.read(Instant(2))]

    assert first < late < early
    assert [] == follower.read(Instant(3))


def test_a_kind_of_a_newer_dispatcher_and_a_damaged_row_are_read(store: OneByOne) -> None:
    task_id = store.new()
    with store.raw.transaction():
        store.raw.engine.change(
            "INSERT INTO events (at, kind, task_id, before, after, who)"
            " VALUES (9, 'colour', :id, 'blue', 'held', 'somebody')",
            {"id": task_id},
        )

    event = last(store)

    assert ("colour", None, S.HELD, "somebody") == (
        event.kind,
        event.before,
        event.after,
        event.who,
    )


def test_every_move_but_the_claim_has_an_event(raw: SqlStore) -> None:
    assert [moves.CLAIM] == [one for one in moves.MOVES if one.event is None]
