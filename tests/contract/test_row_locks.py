"""What two sessions of a server do at once is as if one had come first, and neither fails."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import policy, wire
from dispatcher.config.config import Config, load
from dispatcher.environment import Environment
from dispatcher.execution import LOCAL, NO_ROWS, Claim, Claims, Rows, StartedRun
from dispatcher.model import Declared, Outcome, TaskFilter, TaskState
from dispatcher.operations.editing import edit
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.store.statements import operators, submitters, supervisor
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.times import WallTime, instant
from dispatcher.wire import Exit, RunUid
from dispatcher.words import Beat, Declaration, Refused
from tests.contract.helpers import (
    NODE,
    NOW,
    SHARED,
    TTL,
    OneByOne,
    later,
    new_task,
    on_all,
    settlement,
)
from tests.contract.interleaved import Sessions, stopped
from tests.postgres import Postgres
from tests.simulation import SETTINGS, FakeExecutor

pytestmark = SHARED

OTHER = "node-2"
ENVIRONMENT = Environment({"A": "1"})
TIMES = 40


@pytest.fixture
def sessions(postgres: Postgres, raw: SqlStore, tmp_path: Path) -> Iterator[Sessions]:
    with ExitStack() as stack:
        yield Sessions(postgres, tmp_path / "state", stack)


@pytest.fixture
def one(sessions: Sessions) -> SqlStore:
    return sessions.open()


@pytest.fixture
def other(sessions: Sessions) -> SqlStore:
    return sessions.open()


def alone(store: SqlStore, do: Callable[[SqlStore], Any]) -> Any:
    """Call it in a transaction of its own."""
    with store.transaction():
        return do(store)


def everything(store: OneByOne) -> list[Any]:
    with store.raw.snapshot():
        return [store.sql(f"SELECT * FROM {table} ORDER BY id") for table in ("tasks", "runs")]


def taken_over(store: OneByOne, claim: Claim) -> None:
    """Settle a claim as another node does that takes it over."""
    with store.raw.transaction():
        (run,) = store.raw.stranded(OTHER, now=later(TTL))
        store.raw.settle([orphaned(run)], now=later(TTL))


def orphaned(run: Any) -> Any:
    facts = {"outcome": Outcome.ORPHANED, "state": TaskState.READY, "orphans": 1}
    return settlement(run, **facts)


def declared(claim: Claim) -> Declaration:
    return Declaration(task_id=claim.task_id, lock=claim.lock, word=Declared.SUCCEED)


# Takeover and confirmation -----------------------------------------------------------------


@pytest.fixture
def silent(store: OneByOne) -> Claim:
    """A claim of a node that has been silent for long enough."""
    return store.claimed(until=later(1))


def test_a_takeover_leaves_out_what_its_node_is_confirming(
    one: SqlStore, other: SqlStore, silent: Claim
) -> None:
    with one.transaction():
        one.lock_rows(NO_ROWS, Rows(node=NODE))
        assert {silent.run_uid} == one.confirm(NODE, later(2 * TTL))
        assert [] == alone(other, lambda store: store.stranded(OTHER, now=later(TTL)))
        assert ({silent.run_uid}, True, False) == passed_over(other, silent.run_uid)

    assert [] == alone(other, lambda store: store.stranded(OTHER, now=later(TTL)))
    assert (set(), False, False) == passed_over(other, silent.run_uid)


def passed_over(store: SqlStore, uid: RunUid) -> tuple[set[RunUid], bool, bool]:
    """Return whether this run is passed over; whether any is; and whether another one is."""
    with store.transaction():
        return (
            store.passed_over(OTHER, [uid, RunUid("nobody")], now=later(TTL)),
            store.passes_over(OTHER, now=later(TTL)),
            store.passes_over(OTHER, but=[uid], now=later(TTL)),
        )


def test_a_confirmation_that_comes_second_finds_the_claim_gone(
    sessions: Sessions, one: SqlStore, other: SqlStore, silent: Claim
) -> None:
    def confirm() -> set[Any]:
        with one.transaction():
            one.lock_rows(NO_ROWS, Rows(node=NODE))
            return one.confirm(NODE, later(2 * TTL))

    with other.transaction():
        (run,) = other.stranded(OTHER, now=later(TTL))
        answer = sessions.waiting(confirm)
        other.settle([orphaned(run)], now=later(TTL))

    assert set() == answer.result()


def test_a_local_claim_that_others_have_locked_is_passed_over(
    one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.new(queue="hand")
    claim = store.claim_local("hand", owner=f"{LOCAL}x", output_dir="/o", now=NOW)
    with one.transaction():
        (run,) = one.abandoned(limit=9, now=later(TTL))
        assert [] == alone(other, lambda store: store.abandoned(limit=9, now=later(TTL)))
        assert run.run_uid == claim.run_uid
        assert ({claim.run_uid}, True, False) == passed_over(other, claim.run_uid)


@pytest.mark.parametrize("begun", [False, True])
def test_daemons_that_begin_at_once_wait_for_each_other(
    sessions: Sessions, one: SqlStore, postgres: Postgres, tmp_path: Path, *, begun: bool
) -> None:
    """Longer than a tick waits for a row: a commit may be slow.

    With `begun`, the store has its history, and only the limits are added.
    """
    if begun:
        alone(one, lambda _: None)
    with closing(open_store(postgres.url(), state_dir=tmp_path / "t", patience=0.001)) as tick:
        with one.transaction():
            one.add_limits(["queue:q"])
            waiting = sessions.waiting(
                lambda: alone(tick, lambda store: store.add_limits(["queue:q"]))
            )

        assert waiting.result() is None


def test_a_claim_that_finds_its_limit_locked_is_to_be_tried_again(
    one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.add_limits(["queue:q"])
    for _ in range(2):
        store.new(queue="q")

    def claim(store: SqlStore, node: str) -> Claims:
        return store.claim("q", limit=1, limits=on_all(2), node=node, output_dir="/o", now=NOW)

    with one.transaction():
        mine = claim(one, NODE)
        theirs = alone(other, lambda store: claim(store, OTHER))
    then = alone(other, lambda store: claim(store, OTHER))
    full = alone(other, lambda store: claim(store, OTHER))

    assert [(1, False), (0, True), (1, False), (0, False)] == [
        (len(one), one.busy) for one in (mine, theirs, then, full)
    ]


@pytest.mark.parametrize("statement", [supervisor.STRANDED, supervisor.ABANDONED])
def test_a_takeover_compares_again_what_was_confirmed_after_its_snapshot(
    sessions: Sessions,
    one: SqlStore,
    other: SqlStore,
    store: OneByOne,
    statement: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if statement is supervisor.STRANDED:
        store.claimed(until=later(1))
    else:
        store.new(queue="hand")
        claim = store.claim_local("hand", owner=f"{LOCAL}x", output_dir="/o", now=NOW)
    stopped(other, statement, monkeypatch)

    def take() -> list[Any]:
        with other.transaction():
            if statement is supervisor.STRANDED:
                return other.stranded(OTHER, now=later(TTL))
            return other.abandoned(limit=9, now=later(TTL))

    with sessions.gate():
        taken = sessions.waiting(take)
        if statement is supervisor.STRANDED:
            alone(one, lambda store: store.confirm(NODE, later(2 * TTL)))
        else:
            beat = Beat(task_id=claim.task_id, lock=claim.lock)
            alone(one, lambda store: store.heartbeat([beat], now=later(TTL - 1)))

    assert [] == taken.result()


def test_of_two_nodes_one_takes_over(one: SqlStore, other: SqlStore, silent: Claim) -> None:
    with one.transaction():
        assert [silent.run_uid] == [run.run_uid for run in one.stranded(OTHER, now=later(TTL))]
        assert [] == alone(other, lambda store: store.stranded("node-3", now=later(TTL)))


def test_nothing_is_recorded_of_a_run_that_another_node_has_settled(store: OneByOne) -> None:
    claim = store.claimed(until=later(1))
    taken_over(store, claim)
    before = everything(store)
    uid = claim.run_uid
    beat = Beat(task_id=claim.task_id, lock=claim.lock)

    assert None is store.locks_of([uid]).get(uid)
    assert 0 == store.record_started([StartedRun(uid=uid, pid=7, at=NOW)], now=later(TTL))
    assert not store.record_leader_exits({uid: Exit(at=0.0, exit_code=0)}, now=later(TTL))
    assert not store.begin_ending(uid, Outcome.LOST, "silent", now=later(TTL))
    assert isinstance(store.heartbeat([beat], now=later(TTL))[0], Refused)
    assert isinstance(store.declare(declared(claim), now=later(TTL)), Refused)
    assert None is store.take_runs([uid]).get(uid)
    assert 0 == store.settle([settlement(claim)], now=later(TTL))
    assert set() == store.confirm(NODE, later(9 * TTL))

    assert before == everything(store)


# Endings -----------------------------------------------------------------------------------


def test_of_two_who_decide_an_ending_the_second_changes_nothing_and_does_not_wait(
    one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    claim = store.claimed()
    late = (claim.run_uid, Outcome.TIMED_OUT, "late")
    with one.transaction():
        assert one.begin_ending(claim.run_uid, Outcome.LOST, "silent", now=NOW)
        assert None is alone(
            other, lambda store: store.take_runs([claim.run_uid]).get(claim.run_uid)
        )
        assert not alone(other, lambda store: store.begin_ending(*late, now=NOW))

    assert not alone(other, lambda store: store.begin_ending(*late, now=NOW))
    assert Outcome.LOST == store.lease("ending", claim.task_id)


def test_a_beat_that_waits_for_an_ending_is_refused(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    claim = store.claimed()
    beat = Beat(task_id=claim.task_id, lock=claim.lock)

    with one.transaction():
        assert one.begin_ending(claim.run_uid, Outcome.LOST, "silent", now=NOW)
        answer = sessions.waiting(
            lambda: alone(other, lambda store: store.heartbeat([beat], now=later(5)))
        )

    assert isinstance(answer.result()[0], Refused)
    assert later(TTL) == store.lease("lease_expires_at", claim.task_id)


def test_what_is_decided_of_a_run_sees_the_declaration_that_it_waited_for(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    claim = store.claimed()

    with one.transaction():
        one.declare(declared(claim), now=NOW)
        answer = sessions.waiting(
            lambda: alone(other, lambda store: store.cancel(claim.task_id, "why", now=NOW))
        )

    assert TaskState.RUNNING is answer.result()
    assert None is store.lease("ending", claim.task_id)
    assert None is store.lease("intent", claim.task_id)


# Operators ---------------------------------------------------------------------------------


def ended(store: SqlStore, claim: Claim) -> TaskState:
    """Settle a run that has exited with 0, as a tick does: by what it reads behind its locks."""
    with store.transaction():
        store.lock_rows(Rows(runs=[claim.run_uid]))
        run = store.open_runs_among([claim.run_uid])[claim.run_uid]
        exited = wire.Exited(uid=claim.run_uid, exit=wire.Exit(at=0.0, exit_code=1))
        settled = policy.settle(run, exited, now=NOW, ended_at=NOW, rng=Never())
        assert 1 == store.settle([settled], now=NOW)
    return settled.state


class Never:
    """A source of chance that gives the least."""

    def uniform(self, low: float, _high: float) -> float:
        return low

    def random(self) -> float:
        return 0.0


def test_a_settle_that_waits_for_a_cancel_follows_it(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    claim = store.claimed()

    with one.transaction():
        one.lock_rows(Rows(tasks=[claim.task_id]))
        assert TaskState.RUNNING is one.cancel(claim.task_id, "why", now=NOW)
        state = sessions.waiting(lambda: ended(other, claim))

    assert TaskState.CANCELLED is state.result() is store.task(claim.task_id).state


@pytest.mark.parametrize("verb", ["cancel", "hold", "retry", "release"])
def test_a_verb_that_waits_for_a_settle_answers_what_it_found_then(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne, verb: str
) -> None:
    claim = store.claimed()
    reason = ["why"] if verb in {"cancel", "hold"} else []

    with one.transaction():
        one.lock_rows(Rows(runs=[claim.run_uid]))
        one.settle([settlement(claim)], now=NOW)
        answer = sessions.waiting(
            lambda: alone(
                other, lambda store: getattr(store, verb)(claim.task_id, *reason, now=NOW)
            )
        )

    assert TaskState.SUCCEEDED is answer.result() is store.task(claim.task_id).state


def test_a_claim_leaves_out_what_an_operator_is_holding(
    one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    first, second = store.new(), store.new()

    with one.transaction():
        one.hold(first, "why", now=NOW)
        claims = alone(
            other, lambda store: store.claim("default", limit=9, node=NODE, output_dir="/", now=NOW)
        )

    assert [second] == [claim.task_id for claim in claims]
    assert TaskState.HELD is store.task(first).state


def test_a_daemon_does_not_spin_while_others_have_all_ready_tasks_locked(
    one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    executor = FakeExecutor()
    executor.clock, executor.wall = instant, lambda: WallTime(0)
    daemon = Supervisor(other, executor, SETTINGS, rng=random.Random(1))
    executor.greet()
    at = instant()
    while daemon.tick(executor.events, at=at) <= at:
        executor.events = []
    task_id = store.new()

    with one.transaction():
        one.hold(task_id, "why", now=NOW)
        assert daemon.tick([], at=at) > at

    assert [] == executor.starts


def test_operators_beats_and_settles_in_opposite_orders_wait_for_each_other_in_one(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    third = sessions.open()
    for number in range(TIMES):
        claims = [store.claimed(queue=f"q{number}") for _ in range(6)]
        ids = [claim.task_id for claim in claims]

        def cancel(ids: list[int] = ids) -> None:
            with one.transaction():
                one.lock_rows(Rows(tasks=ids[::-1]))
                for task_id in ids[::-1]:
                    one.cancel(task_id, "why", now=NOW)

        def tick(claims: list[Claim] = claims, ids: list[int] = ids) -> None:
            uids = {claim.run_uid for claim in claims}
            with other.transaction():
                other.lock_rows(Rows(runs={claims[3].run_uid}), Rows(tasks=ids, runs=uids))
                beats = [Beat(task_id=one.task_id, lock=one.lock) for one in claims[::-1]]
                other.heartbeat(beats, now=NOW)
                other.settle([settlement(claims[3])], now=NOW)

        def confirm() -> None:
            with third.transaction():
                third.lock_rows(NO_ROWS, Rows(node=NODE))
                third.confirm(NODE, later(TTL))
                third.renew_short(NODE, gap_ms=TTL, now=NOW)

        sessions.together(cancel, tick, confirm)
        for claim in claims:
            store.end(claim)


def test_a_run_that_is_changed_twice_does_not_wait_for_its_task(
    one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    """The second change makes the server look at the task that the run refers to."""
    claim = store.claimed()
    beat = Beat(task_id=claim.task_id, lock=claim.lock)

    with one.transaction():
        one.engine.rows(operators.STATE, {"id": claim.task_id})
        with other.transaction():
            other.engine.change("SET LOCAL lock_timeout = 1")
            other.heartbeat([beat], now=NOW)
            assert other.begin_ending(claim.run_uid, Outcome.LOST, "silent", now=NOW)


# Deletion ----------------------------------------------------------------------------------


def test_what_is_being_retried_is_not_deleted(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    done = store.finished(queue="other")
    failed = store.claimed()
    store.end(failed, outcome=Outcome.FAILED, state=TaskState.FAILED)

    with one.transaction():
        one.retry(failed.task_id, now=NOW)
        everywhere = alone(
            other,
            lambda store: store.prune(before=later(1), limit=9, states={TaskState.FAILED}),
        )
        ids = [failed.task_id, done]
        named = sessions.waiting(
            lambda: alone(other, lambda store: store.prune_each(ids, TaskFilter(), limit=9))
        )

    assert (0, 1) == (everywhere.tasks, named.result().tasks)
    assert {failed.task_id: TaskState.READY} == store.states()


def test_a_retry_that_waits_for_a_deletion_finds_no_task(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    task_id = store.finished()

    with one.transaction():
        assert 1 == one.prune(before=later(1), limit=9).tasks
        answer = sessions.waiting(lambda: alone(other, lambda store: store.retry(task_id, now=NOW)))

    assert None is answer.result()


def test_a_submit_keeps_the_environment_that_a_deletion_would_remove(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.finished(environment=ENVIRONMENT)

    with one.transaction():
        (made,) = one.submit([new_task(environment=ENVIRONMENT)], now=NOW)
        deleted = sessions.waiting(
            lambda: alone(other, lambda store: store.prune(before=later(1), limit=9))
        )

    assert 1 == deleted.result().tasks
    assert ENVIRONMENT == store.environment(store.task(made.task_id).environment_id)


def test_a_submit_that_waits_for_a_deletion_stores_its_environment_anew(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.finished(environment=ENVIRONMENT)

    with one.transaction():
        one.prune(before=later(1), limit=9)
        made = sessions.waiting(
            lambda: alone(
                other, lambda store: store.submit([new_task(environment=ENVIRONMENT)], now=NOW)
            )
        )

    task = store.task(made.result()[0].task_id)
    assert ENVIRONMENT == store.environment(task.environment_id)
    assert 1 == count(store, "environments")


def test_two_who_delete_the_last_tasks_of_an_environment_leave_none(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.finished(environment=ENVIRONMENT)
    claim = store.claimed(queue="other", environment=ENVIRONMENT)
    store.end(claim, outcome=Outcome.FAILED, state=TaskState.FAILED)

    with one.transaction():
        done = one.prune(before=later(1), limit=9, states={TaskState.SUCCEEDED})
        assert 1 == done.tasks
        second = sessions.waiting(
            lambda: alone(
                other,
                lambda store: store.prune(before=later(1), limit=9, states={TaskState.FAILED}),
            )
        )

    assert 1 == second.result().tasks
    assert 0 == count(store, "environments")


def count(store: OneByOne, table: str) -> int:
    with store.raw.snapshot():
        ((rows,),) = store.sql(f"SELECT count(*) FROM {table}")
    return int(rows)


# Submits and edits -------------------------------------------------------------------------


def test_submits_with_the_same_keys_in_opposite_orders_make_each_task_once(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    many = 100
    for number in range(TIMES // 4):
        keys = [f"{number}-{place}" for place in range(many)]

        def submit(mine: SqlStore, keys: list[str]) -> int:
            tasks = [new_task(key=key, environment=ENVIRONMENT) for key in keys]
            made = alone(mine, lambda store: store.submit(tasks, now=NOW))
            return sum(answer.created for answer in made)

        created = sessions.together(
            lambda keys=keys: submit(one, keys), lambda keys=keys: submit(other, keys[::-1])
        )
        assert many == sum(created)


def test_a_submit_waits_for_the_deletion_of_the_task_that_has_its_key(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    before = store.finished(key="k", environment=ENVIRONMENT)

    with one.transaction():
        one.prune(before=later(1), limit=9)
        made = sessions.waiting(
            lambda: alone(
                other,
                lambda store: store.submit([new_task(key="k", queue="own")], now=NOW),
            )
        )

    (answer,) = made.result()
    assert answer.created
    assert before != answer.task_id


def test_a_deletion_waits_for_a_submit_with_its_key_before_it_deletes(
    sessions: Sessions,
    one: SqlStore,
    other: SqlStore,
    store: OneByOne,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.finished(key="k", environment=ENVIRONMENT)
    found, goes_on, sound = Event(), Event(), one.engine.rows

    def rows(statement: str, *args: Any) -> Any:
        if statement.startswith("\nINSERT INTO tasks"):
            found.set()
            assert goes_on.wait(20)
        return sound(statement, *args)

    monkeypatch.setattr(one.engine, "rows", rows)
    tasks = [new_task(key="k", queue="own", environment=ENVIRONMENT)]
    made = sessions.start(lambda: alone(one, lambda store: store.submit(tasks, now=NOW)))
    assert found.wait(20)
    deleted = sessions.waiting(
        lambda: alone(other, lambda store: store.prune(before=later(1), limit=9))
    )
    goes_on.set()

    assert [False] == [answer.created for answer in made.result()]
    assert 1 == deleted.result().tasks
    assert 0 == count(store, "environments")


@pytest.fixture
def config() -> Config:
    return load(None, {"STATE_DIRECTORY": "/v"})


def test_two_edits_of_a_tasks_variables_add_up(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne, config: Config
) -> None:
    task_id = store.new(queue="default")

    with one.transaction():
        one.lock_for_edit([task_id], None)
        task = one.task(task_id)
        assert task is not None
        second = sessions.waiting(lambda: edit(other, config, task_id, {"env": {"B": "2"}}))
        assert one.edit(task, replace(task, env={"A": "1"}), now=NOW)

    assert TaskState.READY is second.result()
    assert {"A": "1", "B": "2"} == store.task(task_id).env


def test_an_edit_finds_its_key_taken_by_a_submit_that_it_waited_for(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    task_id = store.new(key="k", queue="here")
    tasks = [new_task(key=key, queue="there") for key in ("k", "l")]

    def move() -> bool:
        with other.transaction():
            other.lock_for_edit([task_id], "there")
            task = other.task(task_id)
            assert task is not None
            return other.edit(task, replace(task, queue="there"), now=NOW)

    with one.transaction():
        one.submit(tasks, now=NOW)
        moved = sessions.waiting(move)

    assert not moved.result()


def test_an_edit_and_the_claim_of_its_task_exclude_each_other(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    task_id = store.new()

    with one.transaction():
        one.claim("default", limit=1, node=NODE, output_dir="/", now=NOW)

        def move() -> bool:
            with other.transaction():
                other.lock_for_edit([task_id], None)
                task = other.task(task_id)
                assert task is not None
                return other.edit(task, replace(task, priority=9), now=NOW)

        edited = sessions.waiting(move)

    assert not edited.result()


# Bulk submits ------------------------------------------------------------------------------


@pytest.fixture
def bulk(store: OneByOne) -> str:
    """An accepted bulk submit of three parts of one task."""
    for part in range(3):
        store.stage("u", part, [new_task(priority=part)], now=NOW)
    store.accept("u", now=NOW)
    return "u"


def test_two_who_admit_one_bulk_submit_take_one_part_each(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne, bulk: str
) -> None:
    with one.transaction():
        assert one.admit(bulk, now=NOW)
        second = sessions.waiting(lambda: alone(other, lambda store: store.admit(bulk, now=NOW)))

    assert second.result()
    assert [0, 1] == [store.task(task_id).priority for task_id in sorted(store.states())]
    assert 1 == store.coming()


def test_a_bulk_submit_whose_client_is_at_work_is_not_silent(
    one: SqlStore, other: SqlStore, store: OneByOne, bulk: str
) -> None:
    long_after = later(9_999_999)
    with one.transaction():
        assert one.admit(bulk, now=NOW)
        assert not alone(other, lambda store: store.continue_silent(now=long_after))

    assert alone(other, lambda store: store.continue_silent(now=long_after))


def test_a_bulk_submit_seen_after_the_snapshot_of_a_look_is_not_silent(
    sessions: Sessions,
    one: SqlStore,
    other: SqlStore,
    bulk: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped(other, submitters.SILENT, monkeypatch)
    with sessions.gate():
        step = sessions.waiting(
            lambda: alone(other, lambda store: store.continue_silent(now=later(20_000)))
        )
        assert alone(one, lambda store: store.admit(bulk, now=later(19_000)))

    assert not step.result()


def test_a_bulk_submit_that_is_being_accepted_is_not_removed(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.stage("u", 0, [new_task()], now=NOW)

    with one.transaction():
        assert one.accept("u", now=NOW)
        more = sessions.waiting(lambda: alone(other, lambda store: store.remove_parts("u")))

    assert not more.result()
    assert 1 == store.coming()


def test_one_that_is_being_removed_is_not_accepted(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.stage("u", 0, [new_task()], now=NOW)

    with one.transaction():
        assert not one.remove_parts("u")
        accepted: Future[bool] = sessions.waiting(
            lambda: alone(other, lambda store: store.accept("u", now=NOW))
        )

    assert not accepted.result()
    assert not store.stage("u", 1, [new_task()], now=NOW)
