"""A person's transaction holds rows for long: the daemon leaves them out, and waits for nothing."""

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.errors import StoreLocked
from dispatcher.execution import NONE_HELD, Claim, Held, Rows
from dispatcher.model import Node, Outcome, TaskState
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.supervisor.turn import Request
from dispatcher.times import Instant, WallTime, instant
from dispatcher.words import Beat
from tests.contract.helpers import NODE, NOW, SHARED, TTL, OneByOne, later, settlement
from tests.postgres import Postgres
from tests.simulation import SETTINGS, FakeExecutor

pytestmark = SHARED

#: What a person may lock of a run: its row, its task's, as in an UPDATE, or all.
RUN = "SELECT 1 FROM runs WHERE uid = '{uid}' FOR UPDATE"
TASK = "SELECT 1 FROM tasks WHERE id = {task_id} FOR UPDATE"
UPDATE = "UPDATE tasks SET priority = 5 WHERE id = {task_id}"


OTHER_ROW = "UPDATE tasks SET priority = 7 WHERE queue = 'other'"


class Person:
    """A session that a person left open."""

    def __init__(self, server: Postgres) -> None:
        self._session = psycopg.connect(server.url(), options="-c search_path=dispatcher")
        self._session.execute("SET application_name = 'psql'")
        self._session.commit()
        self.name = f"pid {self._session.info.backend_pid}, user postgres, application psql"

    @contextmanager
    def holding(self, statement: str, claim: Claim | None = None) -> Iterator[None]:
        facts = {} if claim is None else {"uid": claim.run_uid, "task_id": claim.task_id}
        self._session.execute(statement.format(**facts).encode())
        try:
            yield
        finally:
            self._session.rollback()

    def close(self) -> None:
        self._session.close()


@pytest.fixture
def person(postgres: Postgres, raw: SqlStore) -> Iterator[Person]:
    with closing(Person(postgres)) as person:
        yield person


@pytest.fixture
def daemons(postgres: Postgres, raw: SqlStore, tmp_path: Path) -> Iterator[SqlStore]:
    """The store as a daemon opens it, which waits for a lock no longer than for a moment."""
    opened = open_store(postgres.url(), state_dir=tmp_path / "state", patience=0.02)
    assert isinstance(opened, SqlStore)
    with closing(opened):
        yield opened


def add_node(store: OneByOne) -> None:
    store.record_node(
        Node(
            id=NODE,
            boot_id="boot",
            pid_namespace="pid:[1]",
            hostname="here",
            slots=1,
            seen_at=NOW,
            seen_interval_ms=5_000,
        )
    )


def free(store: SqlStore, rows: Rows) -> Held:
    with store.transaction():
        return store.lock_free(rows, node=NODE)


@pytest.mark.parametrize(("statement", "of_run"), [(RUN, True), (TASK, False), (UPDATE, False)])
def test_what_others_have_locked_is_named_and_the_rest_is_locked(
    store: OneByOne, daemons: SqlStore, person: Person, statement: str, *, of_run: bool
) -> None:
    locked, other = store.claimed(queue="a"), store.claimed(queue="b")
    all_rows = Rows(node=NODE)
    named = Rows(tasks=[other.task_id], runs=[locked.run_uid])
    assert NONE_HELD == free(daemons, all_rows)

    with person.holding(statement, locked):
        for wanted in (all_rows, named):
            assert free(daemons, wanted) == Held(
                tasks={locked.run_uid: locked.task_id},
                runs=frozenset([locked.run_uid] if of_run else []),
            )
        assert NONE_HELD == free(daemons, Rows(tasks=[other.task_id]))
    assert NONE_HELD == free(daemons, all_rows)


@pytest.mark.parametrize("statement", [RUN, UPDATE])
def test_free_rows_are_locked_until_the_commit(
    store: OneByOne, daemons: SqlStore, person: Person, statement: str
) -> None:
    claim = store.claimed()
    with daemons.transaction():
        daemons.lock_free(Rows(node=NODE), node=NODE)
        impatient = person.holding(f"SET LOCAL lock_timeout = 1; {statement}", claim)
        with pytest.raises(psycopg.errors.LockNotAvailable), impatient:
            pass


def test_the_row_of_the_node_is_looked_at_too(
    store: OneByOne, daemons: SqlStore, person: Person
) -> None:
    add_node(store)
    with person.holding("SELECT 1 FROM nodes FOR UPDATE"):
        assert Held(node=True) == free(daemons, Rows())
    assert NONE_HELD == free(daemons, Rows())


@pytest.mark.parametrize("statement", [RUN, TASK, UPDATE, "SELECT 1 FROM nodes FOR UPDATE"])
def test_who_holds_the_lock_is_named(
    store: OneByOne, daemons: SqlStore, person: Person, postgres: Postgres, statement: str
) -> None:
    add_node(store)
    store.new(queue="other")
    locked = store.claimed()
    with (
        closing(Person(postgres)) as bystander,
        bystander.holding(OTHER_ROW),
        person.holding(statement, locked),
        daemons.transaction(),
    ):
        held = daemons.lock_free(Rows(node=NODE), node=NODE)
        holder = daemons.lock_holder(held, node=NODE)

    assert person.name == holder


@pytest.mark.parametrize("statement", [RUN, TASK])
def test_leases_and_deadlines_are_renewed_but_of_what_is_locked(
    store: OneByOne, daemons: SqlStore, person: Person, statement: str
) -> None:
    """Also twice in one transaction: then the server itself looks at the task of each run."""
    locked, other = store.claimed(queue="a", until=later(1)), store.claimed(queue="b", until=NOW)
    with person.holding(statement, locked), daemons.transaction():
        held = daemons.lock_free(Rows(node=NODE), node=NODE)
        but = held.tasks.keys()
        assert 1 == daemons.renew(NODE, but=but, now=later(1))
        assert 1 == daemons.renew_short(NODE, gap_ms=10 * TTL, but=but, now=later(2))
        confirmed = daemons.confirm(NODE, later(3 * TTL), but=held.runs)

    assert {locked.run_uid, other.run_uid} == confirmed  # it is still the node's
    expiries = [store.lease("lease_expires_at", one.task_id) for one in (locked, other)]
    assert [later(TTL), later(TTL + 2)] == expiries
    takeovers = [store.lease("takeover_at", one.task_id) for one in (locked, other)]
    moved = later(3 * TTL + locked.kill_grace_ms)
    not_moved = later(1 + locked.kill_grace_ms)
    assert [not_moved if statement == RUN else moved, moved] == takeovers


def test_a_lock_that_lasts_is_an_error_of_its_own(
    store: OneByOne, daemons: SqlStore, person: Person
) -> None:
    claim = store.claimed()
    with (
        person.holding(RUN, claim),
        pytest.raises(StoreLocked, match="another session has held a lock"),
        daemons.transaction(),
    ):
        daemons.lock_rows(Rows(runs=[claim.run_uid]))


# The daemon --------------------------------------------------------------------------------


class Daemon:
    """A supervisor on a server, in real time and beyond it."""

    def __init__(self, store: SqlStore) -> None:
        self.executor = FakeExecutor()
        self.executor.clock, self.executor.wall = instant, lambda: WallTime(0)
        session = NodeSession(uid="s", boot_id="boot", pid_namespace="pid:[1]", state_dir="/s")
        self.settings = replace(SETTINGS, slots=9, session=session, absence_limit=100.0)
        self.supervisor = Supervisor(store, self.executor, self.settings, rng=random.Random(1))
        self._passed = 0.0
        self.executor.greet()
        self.settle_down()

    def tick(self, *requests: Request, after: float = 0.0) -> Instant:
        """Tick as if some seconds had passed."""
        self._passed += after
        events, self.executor.events = self.executor.events, []
        return self.supervisor.tick(events, requests, at=Instant(instant() + self._passed))

    def settle_down(self, *, after: float = 0.0) -> None:
        due = self.tick(after=after)
        while self.executor.events or due <= instant() + self._passed:
            due = self.tick()

    @property
    def silent(self) -> bool:
        return self.supervisor.report(at=instant()).store_silent_for_s is not None


@pytest.fixture
def daemon(daemons: SqlStore) -> Daemon:
    return Daemon(daemons)


def running(store: OneByOne, daemon: Daemon, many: int) -> list[tuple[int, wire.RunUid]]:
    """Let the daemon start tasks; return their ids and runs."""
    ids = [store.new(queue=f"q{number}") for number in range(many)]
    daemon.settle_down(after=6)
    with store.raw.snapshot():
        return [(task_id, store.raw.runs(task_id)[-1].uid) for task_id in ids]


def claim_of(uid: wire.RunUid, task_id: int) -> Any:
    class Named:
        run_uid = uid

    Named.task_id = task_id  # type: ignore[attr-defined]
    return Named


@pytest.mark.parametrize("statement", [RUN, TASK, UPDATE])
def test_a_run_that_is_locked_waits_and_no_other(
    store: OneByOne, daemon: Daemon, person: Person, statement: str
) -> None:
    (locked, uid), (other, other_uid) = running(store, daemon, 2)
    with person.holding(statement, claim_of(uid, locked)):
        daemon.executor.gone(uid, at=instant())
        daemon.executor.gone(other_uid, at=instant())
        third = store.new(queue="more")
        daemon.settle_down(after=1)

        assert not daemon.silent
        assert TaskState.SUCCEEDED is store.task(other).state
        assert TaskState.RUNNING is store.task(third).state is store.task(locked).state
        daemon.settle_down(after=2)
        report = daemon.supervisor.report(at=instant()).rows_locked
        assert report is not None
        assert ((locked,), person.name) == (report.tasks, report.holder)

    daemon.settle_down(after=2)
    assert TaskState.SUCCEEDED is store.task(locked).state
    assert None is daemon.supervisor.report(at=instant()).rows_locked


def test_a_worker_whose_run_is_locked_is_to_try_again(
    store: OneByOne, daemon: Daemon, person: Person
) -> None:
    found = running(store, daemon, 2)
    answers: dict[int, Any] = {}

    def beats() -> list[Request]:
        return [
            Request(
                Beat(task_id=task_id, lock=store.lease("lock", task_id)),
                lambda answer, _now, task_id=task_id: answers.update({task_id: answer}),
            )
            for task_id, _ in found
        ]

    ((locked, uid), (other, _)) = found
    with person.holding(RUN, claim_of(uid, locked)):
        daemon.tick(*beats())
        assert [True, False] == [answers[one] is None for one in (locked, other)]

    daemon.tick(*beats(), after=2)
    assert [False, False] == [answers[one] is None for one in (locked, other)]


def test_a_node_whose_row_is_locked_claims_nothing_and_records_what_ends(
    store: OneByOne, daemon: Daemon, person: Person
) -> None:
    ((task_id, uid),) = running(store, daemon, 1)
    with person.holding("SELECT 1 FROM nodes FOR UPDATE"):
        waiting = store.new(queue="more")
        daemon.executor.gone(uid, at=instant())
        daemon.settle_down()
        daemon.settle_down(after=20)  # it would write the row
        daemon.settle_down(after=2)

        assert not daemon.silent
        assert TaskState.SUCCEEDED is store.task(task_id).state
        assert TaskState.READY is store.task(waiting).state
        report = daemon.supervisor.report(at=instant()).rows_locked
        assert report is not None
        assert report.node_row

    daemon.settle_down(after=2)
    assert TaskState.RUNNING is store.task(waiting).state


def test_a_table_that_is_locked_as_a_whole_is_an_outage_that_names_the_lock(
    store: OneByOne, daemon: Daemon, person: Person
) -> None:
    ((task_id, uid),) = running(store, daemon, 1)
    with person.holding("LOCK TABLE runs"):
        daemon.executor.gone(uid, at=instant())
        daemon.tick()
        report = daemon.supervisor.report(at=instant())
        assert (True, True) == (daemon.silent, report.store_locked)
        assert "another session holds a lock; " in report.in_a_line()

    daemon.settle_down(after=2)
    report = daemon.supervisor.report(at=instant())
    assert (False, False) == (daemon.silent, report.store_locked)
    assert TaskState.SUCCEEDED is store.task(task_id).state


@pytest.mark.parametrize("gone", [False, True])
def test_a_daemon_that_starts_while_a_run_is_locked_compares_it_later(
    store: OneByOne, daemon: Daemon, person: Person, *, gone: bool
) -> None:
    (locked, uid), (other, other_uid) = running(store, daemon, 2)
    executor = daemon.executor
    if gone:
        executor.gone(uid, at=instant())
        executor.events.clear()
    with person.holding(RUN, claim_of(uid, locked)):
        executor.greet()
        daemon.settle_down()
        assert not daemon.silent
        executor.gone(other_uid, at=instant())
        daemon.settle_down()
        assert TaskState.SUCCEEDED is store.task(other).state
        assert TaskState.RUNNING is store.task(locked).state
        greetings = executor.greetings

    daemon.settle_down(after=2)
    assert greetings + 1 == executor.greetings
    wanted = TaskState.SUCCEEDED if gone else TaskState.RUNNING
    assert wanted is store.task(locked).state


def test_a_claim_taken_over_while_its_row_was_locked_is_lost(
    store: OneByOne, daemon: Daemon, person: Person, raw: SqlStore
) -> None:
    """The first who has the row once it is free decides; the other one finds that."""
    ((task_id, uid),) = running(store, daemon, 1)
    far = store.task(task_id)
    with person.holding(RUN, claim_of(uid, task_id)):
        daemon.executor.gone(uid, at=instant())
        daemon.settle_down()
    with raw.transaction() as now:
        (run,) = raw.stranded("far", now=now + 10**9)  # type: ignore[arg-type]
        facts: Any = {"outcome": Outcome.ORPHANED, "state": TaskState.HELD, "orphans": 1}
        raw.settle([settlement(run, **facts)], now=now)

    daemon.settle_down(after=2)

    assert (far.id, TaskState.HELD) == (task_id, store.task(task_id).state)
    assert uid not in (daemon.supervisor.open_runs or ())
    assert uid not in daemon.executor.runs
