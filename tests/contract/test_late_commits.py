"""A commit that arrives after its daemon has given it up: what it wrote is waited for, and found.

The daemon's session ended without the answer to its COMMIT, which the server gets later.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.errors import CommitUnknown
from dispatcher.execution import Claims, Rows
from dispatcher.model import Declared, Outcome, TaskState
from dispatcher.store.sql import SqlStore
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.times import Instant, StoreTime, WallTime, instant
from dispatcher.words import Declaration
from tests.contract.helpers import NODE, NOW, SHARED, OneByOne, settlement
from tests.contract.interleaved import Sessions
from tests.contract.test_nodes import ROW
from tests.postgres import Postgres
from tests.simulation import SETTINGS, FakeExecutor

pytestmark = SHARED

NEXT = replace(ROW, session="two")


@pytest.fixture
def sessions(postgres: Postgres, raw: SqlStore, tmp_path: Path) -> Iterator[Sessions]:
    with ExitStack() as stack:
        yield Sessions(postgres, tmp_path / "state", stack)


@pytest.fixture
def one(sessions: Sessions, store: OneByOne) -> SqlStore:
    """Return a session of a node whose row it has taken."""
    store.take_node(ROW, was=None)
    return sessions.open()


@pytest.fixture
def other(sessions: Sessions) -> SqlStore:
    return sessions.open()


def claimed(store: SqlStore, *, session: str = ROW.session) -> Claims:
    return store.claim("default", limit=9, node=NODE, session=session, output_dir="/out", now=NOW)


def found(store: SqlStore) -> list[Any]:
    """Return what a daemon compares with its executor's runs."""
    with store.transaction():
        store.lock_rows(Rows(node=NODE))
        return [run.run_uid for run in store.open_runs(NODE)]


def test_a_node_that_compares_its_runs_waits_for_its_own_claims(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.new()

    with one.transaction():
        (claim,) = claimed(one)
        runs = sessions.waiting(lambda: found(other))

    assert [claim.run_uid] == runs.result()


@pytest.mark.parametrize("how", ["settled", "ending", "declared"])
def test_a_node_that_compares_its_runs_finds_what_its_late_commits_changed(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne, how: str
) -> None:
    store.new()
    with one.transaction():
        (claim,) = claimed(one)

    with one.transaction():
        if how == "settled":
            one.settle([settlement(claim)], now=NOW)
        elif how == "ending":
            one.begin_ending(claim.run_uid, Outcome.CANCELLED, "why", now=NOW)
        else:
            word = Declaration(task_id=claim.task_id, lock=claim.lock, word=Declared.SUCCEED)
            one.declare(word, now=NOW)
        runs = sessions.waiting(lambda: found(other))

    expected = [] if how == "settled" else [claim.run_uid]
    assert expected == runs.result()


def test_nobody_waits_for_the_claims_of_another_node(
    one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.take_node(replace(ROW, id="node-2"), was=None)
    store.new()

    with one.transaction():
        claimed(one)
        with other.transaction():
            other.lock_rows(Rows(node="node-2"))
            assert [] == other.claim(
                "default", limit=9, node="node-2", session=ROW.session, output_dir="/", now=NOW
            )


def test_the_next_daemon_of_a_node_waits_for_the_claims_of_the_one_before(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.new()
    before = store.node(NODE)

    def take() -> bool:
        with other.transaction():
            return other.take_node(NEXT, was=before)

    with one.transaction():
        (claim,) = claimed(one)
        taken = sessions.waiting(take)

    assert taken.result()
    assert [claim.run_uid] == found(other)


def test_a_daemon_whose_registration_arrives_late_finds_that_the_row_is_its_own(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    before = store.node(NODE)

    def take() -> bool:
        with other.transaction():
            return other.take_node(NEXT, was=before)

    with one.transaction():
        assert one.take_node(NEXT, was=before)
        again = sessions.waiting(take)

    assert not again.result()
    assert store.take_node(NEXT, was=store.node(NODE))


@pytest.mark.parametrize("how", ["taken", "drained"])
def test_a_claim_that_waits_for_its_nodes_row_finds_it_as_it_is_then(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne, how: str
) -> None:
    task_id = store.new()
    before = store.node(NODE)

    def claim() -> Claims:
        with one.transaction():
            return claimed(one)

    with other.transaction():
        if how == "taken":
            assert other.take_node(NEXT, was=before)
        else:
            assert other.drain_node(NODE, "new kernel", now=NOW)
        claims = sessions.waiting(claim)

    assert [] == claims.result()
    assert TaskState.READY is store.task(task_id).state


def test_a_drain_waits_for_the_claims_that_it_does_not_prevent(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    store.new()

    def drain() -> bool:
        with other.transaction():
            return other.drain_node(NODE, "new kernel", now=NOW)

    with one.transaction():
        claimed(one)
        drained = sessions.waiting(drain)

    assert drained.result()


class Late:
    """A daemon's store. It gives up the session that claims first, whose COMMIT comes later."""

    def __init__(self, first: SqlStore, second: SqlStore) -> None:
        self._store, self._next = first, second
        self._claimed = False
        self.commit: ExitStack | None = None
        """What lets the server get the COMMIT."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def claim(self, *args: Any, **facts: Any) -> Claims:
        claims = self._store.claim(*args, **facts)
        self._claimed |= bool(claims)
        return claims

    @contextmanager
    def transaction(self) -> Iterator[StoreTime]:
        with ExitStack() as stack:
            yield stack.enter_context(self._store.transaction())
            if self._claimed and self.commit is None:
                self.commit, self._store = stack.pop_all(), self._next
                raise CommitUnknown("no answer")


class Daemon:
    """A daemon on a store, with an executor that obeys at once."""

    def __init__(self, store: Any) -> None:
        self.executor = FakeExecutor()
        self.executor.clock, self.executor.wall = instant, lambda: WallTime(0)
        session = NodeSession(
            uid=ROW.session, boot_id=ROW.boot_id, pid_namespace=ROW.pid_namespace, state_dir="/s"
        )
        settings = replace(SETTINGS, node_id=NODE, session=session)
        self._supervisor = Supervisor(store, self.executor, settings, rng=random.Random(1))
        self._at = instant()

    def tick(self, *, after: float = 0.0) -> None:
        """Tick until nothing more is due, some seconds after the last tick."""
        self._at, again = Instant(self._at + after), True
        while again or self.executor.events:
            events, self.executor.events = self.executor.events, []
            again = self._supervisor.tick(events, at=self._at) <= self._at


def test_a_claim_whose_commit_arrives_after_its_daemon_has_reconnected_is_found(
    sessions: Sessions, one: SqlStore, other: SqlStore, store: OneByOne
) -> None:
    with other.transaction():
        pass  # it knows the history, as a daemon's store does that has a new session
    late = Late(one, other)
    daemon = Daemon(late)
    daemon.executor.greet()
    daemon.tick()
    task_id = store.new()
    daemon.tick(after=60.0)
    assert late.commit is not None

    reconciled = sessions.waiting(lambda: daemon.tick(after=1.0))
    late.commit.close()
    reconciled.result()

    assert Outcome.ORPHANED is store.runs(task_id)[0].outcome
    assert store.runs(task_id)[0].uid not in daemon.executor.runs
