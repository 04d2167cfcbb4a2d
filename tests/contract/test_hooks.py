"""Hooks: a task for what happens, in its transaction, on every engine."""

from collections.abc import Callable
from typing import Any

import pytest

from dispatcher.events import EventKind
from dispatcher.hooks import Hook
from dispatcher.model import Node, Outcome, TaskFilter, TaskState
from dispatcher.store.sql import SqlStore
from dispatcher.store.statements import hooks as sql
from tests.contract.doubles import AllHooks
from tests.contract.helpers import NODE, NOW, OneByOne, later, new_task, settlement

S = TaskState
FAILURE = {"outcome": Outcome.FAILED, "state": S.FAILED, "reason": "exit code 3", "exit_code": 3}
NODE_ROW = Node(
    id=NODE,
    boot_id="b",
    pid_namespace="p",
    hostname="web-1",
    slots=1,
    seen_at=NOW,
    seen_interval_ms=1,
)


@pytest.fixture
def hooks(raw: SqlStore) -> AllHooks:
    hooks = AllHooks()
    raw.use_hooks(hooks)
    return hooks


def made(store: OneByOne) -> list[tuple[TaskState, str | None]]:
    wanted = TaskFilter(queue="hooks", oldest_first=True)
    return [(one.state, one.origin) for one in store.tasks(wanted)]


def test_a_task_that_fails_has_one_with_the_facts_of_its_run(
    store: OneByOne, hooks: AllHooks
) -> None:
    store.record_node(NODE_ROW)
    claim = store.claimed(labels={"name": "backup"})
    store.end(claim, now=later(7), **FAILURE)

    (one,) = hooks.seen
    assert (Hook.FAILED, claim.task_id, later(7)) == (one.hook, one.task_id, one.at)
    assert (S.RUNNING, S.FAILED, "exit code 3") == (one.before, one.after, one.event_reason)
    assert ("own", {"name": "backup"}, 1, "web-1") == (
        one.queue,
        one.labels,
        one.fence,
        one.hostname,
    )
    assert (Outcome.FAILED, 3, None) == (one.outcome, one.exit_code, one.signal)
    assert f"/out/{claim.run_uid}.log" == one.output_path
    assert [(S.READY, "hook:failed")] == made(store)
    assert str(one.id) == store.task(2).payload


def given_up(store: OneByOne) -> None:
    store.new(total_timeout_ms=5)
    store.give_up(limit=9, now=later(5))


def broken(store: OneByOne) -> None:
    parent = store.new()
    store.new(after=(parent,))
    store.cancel(parent, "why", now=NOW)
    store.resolve(limit=9, now=NOW)


def submitted_broken(store: OneByOne) -> None:
    parent = store.new()
    store.cancel(parent, "why", now=NOW)
    store.new(after=(parent,))


def damaged(store: OneByOne) -> None:
    task_id = store.new()
    with store.raw.transaction():
        values = {"id": task_id}
        store.raw.engine.change("UPDATE tasks SET command = 'no' WHERE id = :id", values)
    assert [] == store.take()


#: What happens, and the hooks that it has.
HAPPENINGS: dict[str, tuple[Callable[[OneByOne], Any], list[str]]] = {
    "succeeds": (lambda s: s.finished(), ["hook:succeeded"]),
    "is given up": (given_up, ["hook:failed"]),
    "its run holds": (
        lambda s: s.end(s.claimed(), outcome=Outcome.HELD, state=S.HELD),
        ["hook:held"],
    ),
    "is held": (lambda s: s.hold(s.new(), "why", now=NOW), ["hook:held"]),
    "its parent fails": (broken, ["hook:held"]),
    "its parent has failed": (submitted_broken, ["hook:held"]),
    "is damaged": (damaged, ["hook:held"]),
    "queue": (lambda s: s.pause("q", "why", now=NOW), ["hook:queue_paused"]),
    "node": (lambda s: s.record_node_paused(NODE, "EAGAIN", now=NOW), ["hook:node_paused"]),
    "is cancelled": (lambda s: s.cancel(s.new(), "why", now=NOW), []),
    "is retried": (
        lambda s: s.end(s.claimed(), outcome=Outcome.FAILED, state=S.SCHEDULED, run_at=later(9)),
        [],
    ),
    "drains": (lambda s: s.drain_node(NODE, "why", now=NOW), []),
}


@pytest.mark.parametrize("what", HAPPENINGS)
def test_r98_what_has_a_hook(store: OneByOne, hooks: AllHooks, what: str) -> None:
    do, expected = HAPPENINGS[what]
    store.record_node(NODE_ROW)
    do(store)

    assert expected == [origin for _, origin in made(store)]


def test_a_new_reason_of_a_held_task_has_none(store: OneByOne, hooks: AllHooks) -> None:
    task_id = store.new()
    store.hold(task_id, "why", now=NOW)
    store.hold(task_id, "another why", now=NOW)

    assert 1 == len(hooks.seen)


def test_what_is_about_no_task_has_its_subject(store: OneByOne, hooks: AllHooks) -> None:
    store.record_node(NODE_ROW)
    store.pause("builds", "upgrade", now=NOW)
    store.record_node_paused(NODE, "EAGAIN", now=NOW)

    assert [
        ("builds", "upgrade", None, None),
        (NODE, "EAGAIN", None, "web-1"),
    ] == [(one.subject, one.event_reason, one.task_id, one.hostname) for one in hooks.seen]


def test_a_run_that_cannot_be_killed_has_one_however_often_it_is_reported(
    store: OneByOne, hooks: AllHooks
) -> None:
    claim = store.claimed()
    for reason in ("it is in D", "it is still in D"):
        store.record_unkillable(claim.run_uid, reason, now=NOW)

    (one,) = hooks.seen
    assert (Hook.WORKER_UNKILLABLE, claim.task_id, 1) == (one.hook, one.task_id, one.fence)
    event = store.task_events(claim.task_id)[-1]
    assert (EventKind.WORKER_UNKILLABLE, "it is in D") == (event.kind, event.reason)


def test_a_limit_that_is_closed_has_its_hook(store: OneByOne, hooks: AllHooks) -> None:
    store.close_limit("anthropic", "429", now=NOW)

    assert [(S.READY, "hook:limit_closed")] == made(store)
    assert [("anthropic", "429")] == [(one.subject, one.event_reason) for one in hooks.seen]


def test_r98_tasks_of_hooks_have_none(store: OneByOne, hooks: AllHooks) -> None:
    store.hold(store.new(), "why", now=NOW)
    (claim,) = store.take("hooks")
    store.end(claim, **FAILURE)
    store.retry(claim.task_id, now=NOW)
    store.hold(claim.task_id, "why", now=NOW)

    assert [(S.HELD, "hook:held")] == made(store)
    assert 1 == len(hooks.seen)


def test_a_transaction_that_fails_leaves_no_task(store: OneByOne, hooks: AllHooks) -> None:
    task_id = store.new()

    def fail() -> None:
        with store.raw.transaction():
            store.raw.hold(task_id, "why", now=NOW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    store.new()

    assert [] == made(store)
    assert [] == hooks.seen


def test_hooks_that_are_not_given_follow_nothing(raw: SqlStore, store: OneByOne) -> None:
    only = AllHooks(states=frozenset({S.FAILED}), kinds=frozenset())
    raw.use_hooks(only)
    store.finished()
    store.pause("q", "why", now=NOW)
    raw.use_hooks(None)
    store.end(store.claimed(), **FAILURE)

    assert [] == only.seen


def test_many_tasks_that_fail_at_once_have_theirs_in_as_many_statements_as_two(
    store: OneByOne, hooks: AllHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = []
    engine = store.raw.engine

    def count(do: Callable[..., Any]) -> Callable[..., Any]:
        return lambda text, *values: statements.append(text) or do(text, *values)

    for name in ("rows", "change", "later"):
        monkeypatch.setattr(engine, name, count(getattr(engine, name)))
    costs = []
    for many in (2, 500):
        store.submit([new_task(queue="own")] * many, now=NOW)
        claims = store.take("own", limit=many)
        statements.clear()
        store.settle([settlement(claim, **FAILURE) for claim in claims], now=NOW)
        costs.append(len(statements))

    assert 502 == len(hooks.seen)
    assert costs[0] == costs[1]


def test_a_transaction_without_hooks_costs_no_statement_more(
    store: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.raw.engine.followed is None
    statements = []
    rows = store.raw.engine.rows
    monkeypatch.setattr(
        store.raw.engine, "rows", lambda text, *more: statements.append(text) or rows(text, *more)
    )
    store.finished()

    assert sql.HAPPENED not in statements
    assert not [text for text in statements if "INTO events" in text]
