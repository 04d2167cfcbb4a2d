"""Which changes of the store ring its bell, and when: each method of the contract has a row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.dependency import ParentFailure, TaskKey
from dispatcher.errors import CommitUnknown, StoreUnavailable
from dispatcher.events import Ledger
from dispatcher.execution import BegunEnding, Claim, Held, Rows, StartedRun
from dispatcher.model import Declared, Node, Outcome, TaskFilter, TaskState
from dispatcher.schedules import ScheduleChange, ScheduleState
from dispatcher.store.api import Store
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.store.submits import CONTINUE_AFTER
from dispatcher.wire import Exit, RunUid
from dispatcher.words import Beat, Declaration, Note
from tests.contract.helpers import NODE, NOW, OneByOne, later, new_task, settlement
from tests.simulation import FakeBell

#: Methods around a transaction instead of in one.
AROUND = {"transaction", "snapshot", "identity", "history", "announces", "bell", "close"}
AROUND |= {"act_as", "use_hooks"}

#: Methods that only read, with their arguments.
READS: Mapping[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "calendar": ((), {}),
    "task": ((1,), {}),
    "tasks": ((TaskFilter(),), {}),
    "matching": ((TaskFilter(),), {}),
    "matching_among": (([1], TaskFilter()), {}),
    "ids": ((), {}),
    "last_events": ((Ledger.EVENTS,), {"before": 9, "limit": 1}),
    "new_events": ((Ledger.RUNS,), {"after": 0, "gaps": [range(3)], "limit": 1}),
    "task_events": ((1,), {}),
    "submitted_from": ((1,), {}),
    "environment": ((1,), {}),
    "environment_size": ((1,), {}),
    "handovers": (([1],), {}),
    "lock_free": ((Rows(tasks=[1]),), {"node": NODE}),
    "lock_holder": ((Held(),), {"node": NODE}),
    "missing_parents": (([new_task(after=(7,))],), {}),
    "parents": (([1],), {"limit": 1}),
    "children": ((1,), {"limit": 1}),
    "runs": ((1,), {}),
    "last_run": ((1,), {}),
    "foremost": ((TaskState.RUNNING,), {"limit": 1}),
    "asking": ((), {"limit": 1}),
    "before": ((), {"limit": 1}),
    "open_run": ((RunUid("u"),), {}),
    "open_runs_among": (([RunUid("u")],), {}),
    "known_runs": (([RunUid("u")],), {}),
    "counts": ((), {}),
    "ready_since": ((), {}),
    "outcomes": ((), {}),
    "wrong_counts": ((), {}),
    "leases": ((), {}),
    "requiring": ((), {"limit": 1}),
    "nodes": ((), {}),
    "node": ((NODE,), {}),
    "running_in": (("q",), {}),
    "running_by_node": ((), {}),
    "paused_queues": ((), {}),
    "closings": ((), {}),
    "limit_views": (({},), {"now": NOW}),
    "limits_taken": ((), {}),
    "prunable": ((), {"before": NOW}),
    "schedules": ((), {}),
    "unfinished_of": (("schedule:x",), {"limit": 1}),
    "coming": ((), {}),
    "damaged_parts": ((), {}),
    "accepted": (("bulk",), {}),
    "submitted": (("bulk", 0), {}),
    "locks_of": (([RunUid("u")],), {}),
    "declared": ((NODE,), {}),
    "next_due": ((), {}),
    "next_due_or_keys": ((), {}),
    "next_failure": ((), {}),
    "ready_queues": ((), {"after": "", "limit": 1}),
    "expired": ((NODE,), {"limit": 1, "now": NOW}),
    "next_expiry": ((NODE,), {}),
    "open_runs": ((NODE,), {}),
    "endings": ((NODE,), {}),
    "abandoned": ((), {"limit": 1, "now": NOW}),
    "stranded": ((NODE,), {"now": NOW}),
    "next_work": ((NODE,), {"now": NOW}),
    "passed_over": ((NODE, ["u"]), {"now": NOW}),
    "passes_over": ((NODE,), {"now": NOW}),
    "next_takeover": ((NODE,), {"now": NOW}),
    "has_unfinished": ((), {}),
    "postponed": ((), {"now": NOW}),
    "version": ((), {}),
    "server_step": ((), {}),
    "accept_server_step": ((), {}),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A call of a method after what was `given`, and whether its transaction rings."""

    method: str
    what: str
    rings: bool
    given: Callable[[OneByOne], Any]
    call: Callable[[Store, Any], object]

    def __str__(self) -> str:
        return f"{self.method}: {self.what}"


def scheduled(store: OneByOne) -> ScheduleState:
    found: dict[str, ScheduleState] = store.take_schedules({"x": "y"}, at=NOW)
    return found["x"]


def nothing(_: OneByOne) -> None:
    """Prepare nothing."""


def ready(store: OneByOne) -> int:
    return store.new()


def running(store: OneByOne) -> Claim:
    return store.claimed()


def limited(store: OneByOne) -> Claim:
    return store.claimed(takes={"provider": 1})


def ending(store: OneByOne) -> Claim:
    claim = running(store)
    store.begin_ending(claim.run_uid, Outcome.TIMED_OUT, "too long", now=NOW)
    return claim


def finished(store: OneByOne) -> int:
    return store.finished()


def ended_parent(store: OneByOne) -> None:
    task_id = ready(store)
    store.new(after=(task_id,))
    store.cancel(task_id, "why", now=NOW)


def keyed(store: OneByOne) -> int:
    return store.new(concurrency_key="k")


def held(store: OneByOne) -> int:
    task_id = ready(store)
    store.hold(task_id, "wait", now=NOW)
    return task_id


def failed(store: OneByOne) -> int:
    claim = running(store)
    store.end(claim, outcome=Outcome.FAILED, state=TaskState.FAILED)
    return claim.task_id


def delayed(milliseconds: int) -> Callable[[OneByOne], int]:
    return lambda store: store.new(delay_ms=milliseconds)


def of(task: int | Claim) -> int:
    return task.task_id if isinstance(task, Claim) else task


def submit(**wanted: Any) -> Callable[[Store, Any], object]:
    return lambda store, _: store.submit([new_task(**wanted)], now=NOW)


def staged(store: OneByOne, **wanted: Any) -> None:
    store.stage("bulk", 0, [new_task(**wanted)], now=NOW)


def accepted(store: OneByOne) -> None:
    staged(store)
    store.accept("bulk", now=NOW)


def admitted(store: OneByOne) -> None:
    accepted(store)
    store.admit("bulk", now=NOW)


def repeated(store: OneByOne) -> None:
    """Accept a bulk submit whose one task exists by its key."""
    store.new(key="k")
    staged(store, key="k")
    store.accept("bulk", now=NOW)


def declaration(claim: Claim) -> Declaration:
    return Declaration(task_id=claim.task_id, lock=claim.lock, word=Declared.SUCCEED)


def declared(store: OneByOne) -> Claim:
    claim = running(store)
    store.declare(declaration(claim), now=NOW)
    return claim


def edit(**changes: Any) -> Callable[[Store, Any], object]:
    def call(store: Store, task: Any) -> object:
        before = store.task(of(task))
        assert before is not None
        return store.edit(before, replace(before, **changes), now=NOW)

    return call


def settle(**facts: Any) -> Callable[[Store, Any], object]:
    return lambda store, claim: store.settle([settlement(claim, **facts)], now=NOW)


def settle_open(store: Store, claim: Any) -> object:
    """Settle with what the store says of the run, as a daemon does."""
    run = store.open_run(claim.run_uid)
    assert run is not None
    return store.settle([settlement(claim, awaited=run.awaited)], now=NOW)


def settle_beside(milliseconds: int) -> Callable[[OneByOne], Claim]:
    """Return what prepares a run, and another task that is due then."""

    def given(store: OneByOne) -> Claim:
        store.new(delay_ms=milliseconds)
        return running(store)

    return given


def settled(store: OneByOne) -> Claim:
    claim = running(store)
    store.end(claim)
    return claim


AGAIN = settle(outcome=Outcome.FAILED, state=TaskState.SCHEDULED, run_at=later(1_000))

NODE_ROW = Node(
    id=NODE,
    boot_id="boot",
    pid_namespace="pid:[1]",
    hostname="here",
    slots=1,
    seen_at=NOW,
    seen_interval_ms=5_000,
)


def node(store: OneByOne) -> None:
    store.record_node(NODE_ROW)


def closed(store: OneByOne) -> None:
    store.close_limit("x", "why", now=NOW)


def drained(store: OneByOne) -> None:
    store.record_node(NODE_ROW)
    store.drain_node(NODE, "why", now=NOW)


CASES = [
    # Submitters
    Case("submit", "ready", True, nothing, submit()),
    Case("submit", "a key in use", False, lambda s: s.new(key="k"), submit(key="k")),
    Case("submit", "delayed, alone", True, nothing, submit(delay_ms=9)),
    Case("submit", "due before another", True, delayed(10), submit(delay_ms=9)),
    Case("submit", "due after another", False, delayed(8), submit(delay_ms=9)),
    Case("submit", "waiting", False, ready, lambda s, t: s.submit([new_task(after=(t,))], now=NOW)),
    Case(
        *("submit", "cancelled at once, and awaited", True, nothing),
        lambda s, _: s.submit(
            [
                new_task(key="a", after=(9,), on_parent_failure=ParentFailure.CANCEL),
                new_task(after=(TaskKey("default", "a"),)),
            ],
            now=NOW,
        ),
    ),
    Case("stage", "a part", False, nothing, lambda s, _: s.stage("b", 0, [new_task()], now=NOW)),
    Case("accept", "parts", False, staged, lambda s, _: s.accept("bulk", now=NOW)),
    Case("admit", "a part", True, accepted, lambda s, _: s.admit("bulk", now=NOW)),
    Case("admit", "no new task", False, repeated, lambda s, _: s.admit("bulk", now=NOW)),
    Case("admit", "nothing left", False, admitted, lambda s, _: s.admit("bulk", now=NOW)),
    Case("remove_parts", "", False, admitted, lambda s, _: s.remove_parts("bulk")),
    Case(
        *("continue_silent", "a part", True, accepted),
        lambda s, _: s.continue_silent(now=later(CONTINUE_AFTER + 1)),
    ),
    Case("continue_silent", "nothing", False, accepted, lambda s, _: s.continue_silent(now=NOW)),
    # Workers
    Case(
        *("heartbeat", "with a note", False, running),
        lambda s, c: s.heartbeat([Beat(task_id=c.task_id, lock=c.lock, note="half")], now=NOW),
    ),
    Case(
        *("note", "another one", False, running),
        lambda s, c: s.note(Note(task_id=c.task_id, lock=c.lock, note="half"), now=NOW),
    ),
    Case("lock_limits", "a limit", False, nothing, lambda s, _: s.lock_limits(["provider"])),
    Case("declare", "an end", True, running, lambda s, c: s.declare(declaration(c), now=NOW)),
    Case("declare", "it again", False, declared, lambda s, c: s.declare(declaration(c), now=NOW)),
    Case("declare", "refused", False, ending, lambda s, c: s.declare(declaration(c), now=NOW)),
    Case(
        *("renew_short", "a lease", False, running),
        lambda s, _: s.renew_short(NODE, gap_ms=10**6, now=NOW),
    ),
    # Operators
    Case("cancel", "waiting", True, ready, lambda s, t: s.cancel(t, "why", now=NOW)),
    Case("cancel", "running", True, running, lambda s, t: s.cancel(of(t), "why", now=NOW)),
    Case("cancel", "finished", False, finished, lambda s, t: s.cancel(t, "why", now=NOW)),
    Case("cancel", "unknown", False, nothing, lambda s, _: s.cancel(99, "why", now=NOW)),
    Case("cancel", "declared success", False, declared, lambda s, t: s.cancel(of(t), "", now=NOW)),
    Case("hold", "waiting", True, ready, lambda s, t: s.hold(t, "why", now=NOW)),
    Case("hold", "running", True, running, lambda s, t: s.hold(of(t), "why", now=NOW)),
    Case("hold", "finished", False, finished, lambda s, t: s.hold(t, "why", now=NOW)),
    Case(
        *("hold", "held", False, held),
        lambda s, t: s.hold(t, "why", replace_reason=False, now=NOW),
    ),
    Case("release", "held", True, held, lambda s, t: s.release(t, now=NOW)),
    Case(
        *("release", "ready", False, ready),
        lambda s, t: s.release(t, now=NOW),
    ),
    Case("retry", "failed", True, failed, lambda s, t: s.retry(t, now=NOW)),
    Case("retry", "ending", True, ending, lambda s, t: s.retry(of(t), now=NOW)),
    Case("retry", "running", False, running, lambda s, t: s.retry(of(t), now=NOW)),
    Case("retry", "ready", False, ready, lambda s, t: s.retry(t, now=NOW)),
    Case("edit", "ready", True, ready, edit(queue="other")),
    Case(
        *("edit", "to ready", True, delayed(9_000)),
        edit(state=TaskState.READY, reason="now", run_at=NOW),
    ),
    Case("edit", "running", False, running, edit(priority=5)),
    Case("mend_counts", "none", False, nothing, lambda s, _: s.mend_counts()),
    Case("pause", "a queue", False, nothing, lambda s, _: s.pause("q", "why", now=NOW)),
    Case(
        *("resume", "a paused queue", True),
        lambda s: s.pause("q", "why", now=NOW),
        lambda s, _: s.resume("q", now=NOW),
    ),
    Case("resume", "another queue", False, nothing, lambda s, _: s.resume("q", now=NOW)),
    Case("close_limit", "a limit", False, nothing, lambda s, _: s.close_limit("x", "", now=NOW)),
    Case("open_limit", "a closed one", True, closed, lambda s, _: s.open_limit("x", now=NOW)),
    Case("open_limit", "another", False, nothing, lambda s, _: s.open_limit("x", now=NOW)),
    Case("drain_node", "a node", False, node, lambda s, _: s.drain_node(NODE, "why", now=NOW)),
    Case("resume_node", "that drains", True, drained, lambda s, _: s.resume_node(NODE, now=NOW)),
    Case("resume_node", "another", False, node, lambda s, _: s.resume_node(NODE, now=NOW)),
    Case("forget_node", "a node", False, node, lambda s, _: s.forget_node(NODE, now=later(10**6))),
    Case("prune", "a task", False, finished, lambda s, _: s.prune(before=later(9), limit=9)),
    Case(
        *("prune_each", "a task", False, finished),
        lambda s, t: s.prune_each([t], TaskFilter(), limit=9),
    ),
    Case(
        *("claim_local", "a task", False, ready),
        lambda s, _: s.claim_local("default", owner="local:1", output_dir="/out", now=NOW),
    ),
    # The supervisor, whose methods commands call, too
    Case("move_due", "a task", True, delayed(9), lambda s, _: s.move_due(limit=9, now=later(9))),
    Case("move_due", "none", False, delayed(9), lambda s, _: s.move_due(limit=9, now=NOW)),
    Case(
        *("give_up", "a task", False, lambda s: s.new(queue_timeout_ms=5)),
        lambda s, _: s.give_up(limit=9, now=later(9)),
    ),
    Case(
        *("claim", "a task", False, ready),
        lambda s, _: s.claim("default", limit=1, node=NODE, output_dir="/out", now=NOW),
    ),
    Case(
        *("record_started", "a run", False, running),
        lambda s, c: s.record_started([StartedRun(uid=c.run_uid, pid=1, at=NOW)], now=NOW),
    ),
    Case(
        *("record_leader_exits", "a run", False, running),
        lambda s, c: s.record_leader_exits({c.run_uid: Exit(at=0.0, exit_code=0)}, now=NOW),
    ),
    Case("renew", "a lease", False, running, lambda s, _: s.renew(NODE, now=later(9))),
    Case(
        *("lock_rows", "a run", False, running),
        lambda s, c: s.lock_rows(Rows(tasks=[c.task_id]), Rows(runs=[c.run_uid])),
    ),
    Case(
        *("lock_free", "a run", False, running),
        lambda s, c: s.lock_free(Rows(runs=[c.run_uid]), node=NODE),
    ),
    Case(
        *("lock_holder", "a run", False, running),
        lambda s, c: s.lock_holder(Held(tasks={c.run_uid: c.task_id}), node=NODE),
    ),
    Case(
        *("lock_for_edit", "a task", False, ready), lambda s, t: s.lock_for_edit([t], "elsewhere")
    ),
    Case("answer", "a task", False, held, lambda s, t: s.answer(t, "yes", now=NOW)),
    Case("lock_for_retry", "a task", False, failed, lambda s, t: s.lock_for_retry([t])),
    Case("resolve", "nothing", False, running, lambda s, _: s.resolve(limit=1, now=NOW)),
    Case("resolve", "an end", True, ended_parent, lambda s, _: s.resolve(limit=1, now=NOW)),
    Case("give_keys", "a key", True, keyed, lambda s, _: s.give_keys(limit=1)),
    Case("give_keys", "nothing", False, nothing, lambda s, _: s.give_keys(limit=1)),
    Case("take_runs", "a run", False, running, lambda s, c: s.take_runs([c.run_uid])),
    Case("confirm", "a claim", False, running, lambda s, _: s.confirm(NODE, later(9))),
    Case(
        *("begin_endings", "runs", True, running),
        lambda s, c: s.begin_endings([BegunEnding(c.run_uid, Outcome.LOST, "why")], now=NOW),
    ),
    Case(
        *("begin_endings", "again", False, ending),
        lambda s, c: s.begin_endings([BegunEnding(c.run_uid, Outcome.LOST, "why")], now=NOW),
    ),
    Case(
        *("begin_ending", "a run", True, running),
        lambda s, c: s.begin_ending(c.run_uid, Outcome.RELEASED, "why", now=NOW),
    ),
    Case(
        *("begin_ending", "again", False, ending),
        lambda s, c: s.begin_ending(c.run_uid, Outcome.RELEASED, "why", now=NOW),
    ),
    Case(
        *("take_schedules", "a new one", False, nothing),
        lambda s, _: s.take_schedules({"x": "y"}, at=NOW),
    ),
    Case(
        *("settle_schedule", "one", False, scheduled),
        lambda s, state: s.settle_schedule(state, now=NOW),
    ),
    Case(
        *("change_schedule", "pause", False, scheduled),
        lambda s, _: s.change_schedule("x", ScheduleChange.PAUSE, reason="y", at=NOW, now=NOW),
    ),
    Case(
        *("record_unkillable", "a run", False, running),
        lambda s, c: s.record_unkillable(c.run_uid, "why", now=NOW),
    ),
    Case(
        *("record_node_paused", "a node", False, nothing),
        lambda s, _: s.record_node_paused(NODE, "why", now=NOW),
    ),
    Case(
        *("settle", "to ready", True, running),
        settle(outcome=Outcome.RELEASED, state=TaskState.READY),
    ),
    Case("settle", "due before another", True, settle_beside(2_000), AGAIN),
    Case("settle", "due after another", False, settle_beside(500), AGAIN),
    Case("settle", "succeeded", False, running, settle()),
    Case("settle", "of a limit", True, limited, settle_open),
    Case("settle", "awaited", True, running, settle(awaited=True)),
    Case(
        *("settle", "closed before", False, settled),
        settle(outcome=Outcome.RELEASED, state=TaskState.READY),
    ),
    Case(
        *("record_results", "of a queue", False, nothing),
        lambda s, _: s.record_results({"queue:q": 1}, now=NOW),
    ),
    Case("add_limits", "a queue", False, nothing, lambda s, _: s.add_limits(["queue:q"])),
    Case("take_node", "a node", False, nothing, lambda s, _: s.take_node(NODE_ROW, was=None)),
    Case("record_node", "a node", False, nothing, lambda s, _: s.record_node(NODE_ROW)),
    Case("leave_node", "a node", False, nothing, lambda s, _: s.leave_node(NODE, "")),
    Case("record_reconciled", "a node", False, nothing, lambda s, _: s.record_reconciled(NODE)),
    Case("postpone_takeovers", "", False, nothing, lambda s, _: s.postpone_takeovers(now=NOW)),
    Case("prune_events", "", False, nothing, lambda s, _: s.prune_events(before=NOW, limit=9)),
    Case("watch_clock", "", False, nothing, lambda s, _: s.watch_clock()),
]


@pytest.fixture
def bell(raw: SqlStore) -> FakeBell:
    raw.bell = bell = FakeBell()
    return bell


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_transaction_rings_once_for_what_gives_daemons_work(
    raw: SqlStore, store: OneByOne, bell: FakeBell, case: Case
) -> None:
    given = case.given(store)
    bell.rings = 0

    with raw.transaction():
        case.call(raw, given)
        assert 0 == bell.rings, "not before the commit"

    assert case.rings == bell.rings


def test_a_method_that_reads_rings_nothing(raw: SqlStore, store: OneByOne, bell: FakeBell) -> None:
    task = store.task(store.new())
    bell.rings = 0

    for name, (args, kwargs) in READS.items():
        with raw.transaction():
            getattr(raw, name)(*((task,) if name == "before" else args), **kwargs)
        assert 0 == bell.rings, name


def test_each_method_of_the_contract_has_its_row() -> None:
    contract = {name for part in Store.__mro__ for name in vars(part) if not name.startswith("_")}

    assert contract - AROUND == {case.method for case in CASES} | READS.keys()


def test_many_changes_of_a_transaction_ring_once_when_others_can_see_them(
    raw: SqlStore, url: str, tmp_path: Path, bell: FakeBell
) -> None:
    other = open_store(url, state_dir=tmp_path / "state", patience=0)
    seen: list[int] = []

    def look() -> None:
        with other.snapshot():
            seen.append(len(other.tasks(TaskFilter())))

    bell.on_ring = look
    with raw.transaction():
        for _ in range(3):
            raw.cancel(raw.submit([new_task()], now=NOW)[0].task_id, "why", now=NOW)
    other.close()

    assert [3] == seen


def test_the_next_transaction_rings_only_for_itself(raw: SqlStore, bell: FakeBell) -> None:
    with raw.transaction():
        raw.submit([new_task()], now=NOW)
    with raw.transaction():
        raw.pause("q", "why", now=NOW)

    assert 1 == bell.rings


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, StoreUnavailable, CommitUnknown])
def test_nothing_rings_for_what_is_rolled_back(
    raw: SqlStore, bell: FakeBell, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        submit_and_raise(raw, error)

    assert 0 == bell.rings


def submit_and_raise(raw: SqlStore, error: type[BaseException]) -> None:
    with raw.transaction():
        raw.submit([new_task()], now=NOW)
        raise error


@pytest.mark.parametrize(
    ("error", "rings"),
    [(CommitUnknown, 1), (KeyboardInterrupt, 1), (StoreUnavailable, 0), (RuntimeError, 0)],
)
def test_a_commit_that_may_have_been_made_rings_and_one_that_was_not_does_not(
    raw: SqlStore, bell: FakeBell, monkeypatch: pytest.MonkeyPatch, error: type, rings: int
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(raw.engine, "commit", fail)
    with pytest.raises(error), raw.transaction():
        raw.submit([new_task()], now=NOW)

    assert rings == bell.rings


def test_a_bell_of_the_database_rings_within_the_transaction_and_with_it(
    raw: SqlStore, store: OneByOne
) -> None:
    """As NOTIFY does: its statement is the last, in a transaction that gives work, and once."""
    with raw.transaction():
        store.sql("CREATE TABLE rung (tasks INTEGER)")
    raw.bell = FakeBell("INSERT INTO rung SELECT count(*) FROM tasks RETURNING tasks")

    with raw.transaction():
        raw.submit([new_task()], now=NOW)
        raw.submit([new_task()], now=NOW)
    with raw.transaction():
        raw.pause("q", "why", now=NOW)
    with pytest.raises(KeyboardInterrupt):
        submit_and_raise(raw, KeyboardInterrupt)

    with raw.transaction():
        assert [(2,)] == store.sql("SELECT tasks FROM rung")
