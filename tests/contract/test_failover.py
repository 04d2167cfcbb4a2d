"""A real replica that lags and takes over: what it forgot is never repeated, and claims wait."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnavailable
from dispatcher.execution import Claim
from dispatcher.history import RETURN
from dispatcher.model import Node
from dispatcher.store import server as sessions
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.times import StoreTime
from dispatcher.words import Beat, Refused
from dispatcher.worker_api import WorkerError
from tests.contract.helpers import OneByOne
from tests.eventually import eventually
from tests.postgres import Postgres, replica_of, running, url_of

#: How long the node's runs go on unconfirmed.
LIMIT = 60_000


@dataclass
class Pair:
    """A primary and its asynchronous replica."""

    primary: Postgres
    replica: Postgres

    def part(self) -> None:
        """Let the replica have all until now, and nothing that follows."""
        self.replica.catch_up(self.primary)
        self.replica.detach()

    def fail_over(self) -> None:
        self.primary.stop(signal.SIGQUIT)
        self.replica.promote()


@pytest.fixture
def pair(server_files: Path) -> Iterator[Pair]:
    with running(server_files) as primary, replica_of(primary) as replica:
        yield Pair(primary, replica)


@contextmanager
def opened(url: str, state_dir: Path, *, patience: float = 10) -> Iterator[OneByOne]:
    store = open_store(url, state_dir=state_dir, patience=patience)
    assert isinstance(store, SqlStore)
    with closing(store):
        yield OneByOne(store)


def time_of(store: OneByOne) -> StoreTime:
    with store.raw.transaction() as now:
        return now


def take(store: OneByOne, *, limit: int = 1, queue: str = "default", now: StoreTime) -> list[Claim]:
    """Claim for the node that is here."""
    claims: list[Claim] = store.claim(
        queue, limit=limit, node="here", session="session", output_dir="/out", now=now
    )
    return claims


def record_node(store: OneByOne, name: str = "here") -> None:
    """Record a node that works in this history."""
    node = Node(
        id=name,
        boot_id="boot",
        pid_namespace="pid:[1]",
        hostname=name,
        slots=1,
        seen_at=time_of(store),
        seen_interval_ms=5_000,
        session="session",
        unconfirmed_ms=LIMIT,
    )
    store.record_node(node)
    store.record_reconciled(name)


def test_after_a_failover_no_fence_and_no_id_is_repeated_and_claims_wait_for_each_node(
    pair: Pair, tmp_path: Path
) -> None:
    with opened(url_of(pair.primary, pair.replica), tmp_path) as store:
        record_node(store)
        first, second = (store.new() for _ in range(2))
        (kept,) = take(store, now=time_of(store))
        pair.part()
        (forgotten,) = take(store, now=time_of(store))
        lost = store.new()
        before = store.raw.history

        pair.fail_over()

        now = time_of(store)
        assert (1, 2) == (before.timeline, store.raw.history.timeline)
        assert (first, second) == (kept.task_id, forgotten.task_id)
        beats = [Beat(task_id=one, lock=forgotten.lock) for one in (second, lost)]
        answers = store.heartbeat(beats, now=now)
        assert [WorkerError.NOT_RUNNING, WorkerError.UNKNOWN_TASK] == [
            one.error for one in answers if isinstance(one, Refused)
        ]
        assert lost < store.new()

        assert [] == take(store, now=now)
        assert ("here",) == store.postponed(now=now).nodes
        store.record_reconciled("here")
        assert () == store.postponed(now=now).nodes
        with pytest.raises(StoreUnavailable, match=r"may have forgotten claims.*for 10 s more"):
            store.claim_local("default", owner="local:me", output_dir="/o", now=now)

        back = StoreTime(now + RETURN)
        (again,) = take(store, now=back)
        assert second == again.task_id
        assert forgotten.fence < 2**40 < again.fence
        assert store.postponed(now=back) is None


def test_a_node_that_does_not_return_holds_claims_back_until_its_workers_are_gone(
    pair: Pair, tmp_path: Path
) -> None:
    with opened(url_of(pair.primary, pair.replica), tmp_path) as store:
        for name in ("here", "gone"):
            record_node(store, name)
        quick, slow = (store.new(queue="q", kill_grace_ms=grace) for grace in (0, 5_000))
        pair.part()
        pair.fail_over()
        now = time_of(store)
        store.record_reconciled("here")

        early, late = (StoreTime(now + LIMIT + more) for more in (-1, 0))
        assert (("gone",), now + LIMIT) == (
            store.postponed(now=early).nodes,
            store.postponed(now=early).until,
        )
        assert [] == take(store, limit=2, queue="q", now=early)
        assert [quick] == [one.task_id for one in take(store, limit=2, queue="q", now=late)]
        graced = StoreTime(late + 5_000)
        assert [slow] == [one.task_id for one in take(store, limit=2, queue="q", now=graced)]


def test_replicas_that_take_over_one_after_the_other_repeat_no_fence_of_each_other(
    server_files: Path, tmp_path: Path
) -> None:
    """Both begin timeline 2, as neither knows of the other."""
    with ExitStack() as stack:
        primary = stack.enter_context(running(server_files))
        replicas = [stack.enter_context(replica_of(primary)) for _ in range(2)]
        servers = (primary, *replicas)
        store = stack.enter_context(opened(url_of(*servers), tmp_path))
        store.new()
        for replica in replicas:
            replica.catch_up(primary)
            replica.detach()

        fences, histories = [], []
        for number, replica in enumerate(replicas):
            servers[number].stop(signal.SIGQUIT)
            replica.promote()
            later = StoreTime(time_of(store) + RETURN)
            (claim,) = store.take(now=later)
            fences.append(claim.fence)
            histories.append(store.raw.history)

    assert [2, 2] == [one.timeline for one in histories]
    assert histories[0] != histories[1]
    assert fences[0] < fences[1]


def test_a_former_primary_that_still_runs_is_refused(pair: Pair, tmp_path: Path) -> None:
    with opened(url_of(pair.replica, pair.primary), tmp_path) as store:
        store.new()
        pair.part()
        pair.replica.promote()
        ours = "FROM pg_stat_activity WHERE application_name LIKE 'dispatcher %'"
        pair.primary.sql(f"SELECT pg_terminate_backend(pid) {ours}")

        def probe() -> None:
            assert [] == pair.primary.sql(f"SELECT 1 {ours}")

        eventually(probe)
        store.new()
        assert 2 == store.raw.history.timeline

        pair.replica.stop(signal.SIGQUIT)

        with pytest.raises(StoreUnavailable, match=r"timeline 1.* worked on 2.*let store.url lead"):
            store.new()


def test_a_beat_that_was_forgotten_costs_no_local_claim_its_task(
    pair: Pair, tmp_path: Path
) -> None:
    with opened(url_of(pair.primary, pair.replica), tmp_path) as store:
        record_node(store)
        store.new()
        began = time_of(store)
        claim = store.claim_local("default", owner="local:me", output_dir="/o", now=began)
        pair.part()
        pair.fail_over()
        failed_over_at = time_of(store)

        lapsed = StoreTime(claim.lease_expires_at)
        assert [] == store.abandoned(limit=9, now=lapsed)
        until = StoreTime(failed_over_at + LIMIT + 10_000)
        assert [claim.run_uid] == [one.run_uid for one in store.abandoned(limit=9, now=until)]


WAITS_FOR_STANDBY = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture
def deserted(server_files: Path) -> Iterator[Postgres]:
    """A server whose only synchronous standby is away, once `desert` was called."""
    with running(server_files) as server:
        yield server
        server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        server.sql("SELECT pg_reload_conf()")


def desert(server: Postgres) -> None:
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'")
    server.sql("SELECT pg_reload_conf()")


def unknown_commit(store: OneByOne) -> str:
    """Return the message of a commit that nobody confirms, once the server awaits somebody."""

    def probe() -> str:
        try:
            store.new()
        except CommitUnknown as error:
            return str(error)
        raise AssertionError("the server has not read its settings yet")

    return eventually(probe)


def test_a_commit_that_no_synchronous_standby_confirms_is_unknown_but_renewals_go_on(
    deserted: Postgres, tmp_path: Path
) -> None:
    with opened(deserted.url(), tmp_path, patience=0.02) as store:
        claim = store.claimed()
        desert(deserted)

        assert "did not answer in time" in unknown_commit(store)
        assert 1 == store.renew("node-1", now=time_of(store))
        assert store.lease("lease_expires_at", claim.task_id) > claim.lease_expires_at

        def probe() -> None:  # nothing is left of the session that was given up
            assert [] == deserted.sql(WAITS_FOR_STANDBY)

        eventually(probe)


def test_a_store_that_is_closed_after_an_unknown_commit_leaves_no_session_behind(
    deserted: Postgres, tmp_path: Path
) -> None:
    with opened(deserted.url(), tmp_path, patience=0.02) as store:
        store.new()
        desert(deserted)
        unknown_commit(store)
        assert deserted.sql(WAITS_FOR_STANDBY)

    def probe() -> None:
        assert [] == deserted.sql(WAITS_FOR_STANDBY)

    eventually(probe)


def test_a_commit_whose_wait_for_a_standby_is_ended_is_unknown_although_it_reports_success(
    deserted: Postgres, tmp_path: Path
) -> None:
    def end_wait() -> None:
        ((pid,),) = deserted.sql(WAITS_FOR_STANDBY) or [(None,)]
        assert pid is not None
        deserted.sql(f"SELECT pg_cancel_backend({pid})")

    with opened(deserted.url(), tmp_path) as store, ThreadPoolExecutor(1) as operator:
        desert(deserted)
        ended = operator.submit(eventually, end_wait)

        assert "no synchronous standby confirmed it" in unknown_commit(store)
        ended.result()


def test_a_commit_that_rings_waits_for_another_that_waits_for_a_standby(
    deserted: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a server that notify take turns; longer than others' rows are waited for."""
    monkeypatch.setattr(sessions, "STATEMENT", 60.0)
    monkeypatch.setattr(sessions, "ANSWER", 60.0)
    waits_long = (
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'object'"
        " AND clock_timestamp() - query_start > INTERVAL '200 ms'"
    )

    def end_wait() -> None:
        assert deserted.sql(waits_long), "the second has not waited for long"
        ((pid,),) = deserted.sql(WAITS_FOR_STANDBY)
        deserted.sql(f"SELECT pg_cancel_backend({pid})")

    with (
        opened(deserted.url(), tmp_path, patience=0.02) as store,
        ThreadPoolExecutor(2) as others,
    ):
        deserted.sql("ALTER ROLE postgres SET synchronous_commit = local")
        with opened(deserted.url(), tmp_path, patience=0.02) as second:
            for each in (store, second):  # they know the history
                each.new()
            desert(deserted)
            first = others.submit(unknown_commit, store)
            eventually(lambda: _expect_rows(deserted, WAITS_FOR_STANDBY))
            ended = others.submit(eventually, end_wait)

            second.new()

        ended.result()
        assert "no synchronous standby confirmed it" in first.result()


def _expect_rows(server: Postgres, query: str) -> None:
    assert server.sql(query)


WAITS_FOR_ITS_TURN = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'object'"


@contextmanager
def turn_taken(server: Postgres) -> Iterator[None]:
    """Let a foreign session hold the turn of commits that ring: it waits for its standby."""

    def notify() -> None:
        with suppress(psycopg.OperationalError), closing(server.connect()) as session:
            session.execute("SET application_name = 'holder'")
            while True:  # the first ones may come before the server has read its settings
                session.execute("SELECT pg_logical_emit_message(TRUE, '', ''); NOTIFY something")

    with ThreadPoolExecutor(1) as holder:
        notified = holder.submit(notify)
        try:
            eventually(lambda: _expect_rows(server, WAITS_FOR_STANDBY))
            yield
        finally:
            server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'holder'"
            )
            notified.result()


def test_a_commit_that_rings_does_not_wait_for_its_turn_without_end_and_wrote_nothing(
    deserted: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ANSWER", 60.0)
    with opened(deserted.url(), tmp_path, patience=0.02) as store:
        kept = store.new()
        desert(deserted)
        with turn_taken(deserted):
            with pytest.raises(StoreUnavailable, match=r"held a lock for more than.*try again"):
                store.new()
            with store.raw.transaction():
                assert [(kept,)] == store.sql("SELECT id FROM tasks")


def test_a_session_that_was_given_up_while_it_waited_for_its_turn_is_ended(
    deserted: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn would come later, and then nobody would end its wait for the standby."""
    monkeypatch.setattr(sessions, "STATEMENT", 3600.0)
    with opened(deserted.url(), tmp_path, patience=0.02) as store:
        store.new()
        desert(deserted)
        with turn_taken(deserted):
            with pytest.raises(CommitUnknown, match="did not answer in time"):
                store.new()
            assert deserted.sql(WAITS_FOR_ITS_TURN)
            with store.raw.transaction():
                pass

            def probe() -> None:
                assert [] == deserted.sql(WAITS_FOR_ITS_TURN)

            eventually(probe)


def test_commits_that_ring_leave_no_session_behind_while_a_standby_is_away(
    deserted: Postgres, tmp_path: Path
) -> None:
    def submit(store: OneByOne) -> None:
        for _ in range(6):
            with suppress(DispatcherError):
                store.new()

    with (
        opened(deserted.url(), tmp_path, patience=0.02) as one,
        opened(deserted.url(), tmp_path, patience=0.02) as other,
        ThreadPoolExecutor(2) as both,
    ):
        for each in (one, other):
            each.new()
        desert(deserted)
        unknown_commit(one)
        list(both.map(submit, (one, other)))
        for each in (one, other):
            with each.raw.transaction():
                pass

        def probe() -> None:
            assert [] == deserted.sql(WAITS_FOR_STANDBY)
            assert [] == deserted.sql(WAITS_FOR_ITS_TURN)

        eventually(probe)


def test_a_role_that_waits_for_no_disk_waits_for_it_here(
    deserted: Postgres, tmp_path: Path
) -> None:
    deserted.sql("ALTER ROLE postgres SET synchronous_commit = off")
    with opened(deserted.url(), tmp_path) as store, store.raw.transaction():
        assert [("local",)] == store.sql("SELECT current_setting('synchronous_commit')")
