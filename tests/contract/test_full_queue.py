"""A server whose queue of notifications is full, as a session that listens is in a transaction."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.errors import StoreRefused, StoreUnavailable
from dispatcher.store.open import open_store
from dispatcher.store.server_bell import CHECK_EVERY, FULL
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NOW, new_task
from tests.contract.test_server_bell import Time, bell_at, is_readable, rings_of, settle
from tests.eventually import eventually
from tests.postgres import Postgres, running

#: The least room that PostgreSQL 17 and newer allow; before it is 8 GiB, which no test fills.
PAGES = 64

#: Fills a page.
NOTIFY = "SELECT pg_notify('other', repeat('a', 7900))"


@pytest.fixture(scope="module")
def server(server_files: Path) -> Iterator[Postgres]:
    """A server for these tests alone, with little room for notifications."""
    with running(server_files) as server:
        if server.sql("SELECT 1 FROM pg_settings WHERE name = 'max_notify_queue_pages'"):
            server.sql(f"ALTER SYSTEM SET max_notify_queue_pages = {PAGES}")
            server.restart()
        yield server


@pytest.fixture
def small(server: Postgres) -> Postgres:
    if not server.sql("SELECT 1 FROM pg_settings WHERE name = 'max_notify_queue_pages'"):
        pytest.skip("before PostgreSQL 17 the queue has 8 GiB")
    return server


@pytest.fixture
def store(server: Postgres, tmp_path: Path) -> Iterator[SqlStore]:
    with closing(open_store(server.url(), state_dir=tmp_path, patience=5)) as store:
        assert isinstance(store, SqlStore)
        yield store
    server.sql("DROP SCHEMA dispatcher CASCADE")


def usage(connection: psycopg.Connection[Any]) -> float:
    (used,) = connection.execute("SELECT pg_notification_queue_usage()").fetchone() or (0.0,)
    return float(used)


def fill(server: Postgres, until: float) -> None:
    """Notify until the queue is that full, or with infinity until it takes no more."""
    with closing(server.connect()) as connection:
        while usage(connection) < until:
            try:
                connection.execute(NOTIFY.encode())
            except psycopg.errors.ProgramLimitExceeded:
                assert until == math.inf
                return


def has_room(server: Postgres) -> bool:
    """Return whether it takes a notification: to ask it how full its queue is would free that."""
    with closing(server.connect()) as connection:
        try:
            connection.execute("NOTIFY other")
        except psycopg.errors.ProgramLimitExceeded:
            return False
    return True


@contextmanager
def holder(server: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """Give a session that listens and stays in a transaction."""
    with closing(server.connect()) as session:
        session.execute("LISTEN other")
        session.execute("BEGIN")
        session.execute("SELECT 1")
        yield session


def submit(store: SqlStore) -> int:
    with store.transaction():
        return store.submit([new_task()], now=NOW)[0].task_id


def test_work_is_committed_without_a_ring_while_the_queue_is_full(
    small: Postgres, store: SqlStore
) -> None:
    time = Time()
    with closing(bell_at(small.url(), time)) as bell:
        settle(bell)
        heard = bell.heard
        with holder(small):
            fill(small, math.inf)
            time.pass_by(CHECK_EVERY)
            settle(bell)
            assert "100 % full" in (bell.failure or "")
            assert bell.heard is None, "the daemon polls"

            task = submit(store)
            with store.snapshot():
                assert [(task,)] == store.engine.rows("SELECT id FROM tasks")
            assert not is_readable(bell)

        def probe() -> None:
            time.pass_by(CHECK_EVERY)
            settle(bell)
            assert bell.failure is None

        # Nobody but the check frees the queue: a full one stays full when its holder is gone.
        eventually(probe)
        assert bell.heard not in (None, heard), "what was missed is looked for"
        submit(store)
        assert rings_of(bell)


def test_a_queue_whose_holder_is_gone_is_freed_by_the_next_ring(
    small: Postgres, store: SqlStore
) -> None:
    with holder(small):
        fill(small, math.inf)

    def probe() -> None:
        submit(store)
        assert has_room(small)

    eventually(probe)


def test_a_commit_that_finds_the_queue_full_may_be_tried_again(
    small: Postgres, store: SqlStore
) -> None:
    def work() -> None:
        with store.transaction():
            store.submit([new_task()], now=NOW)
            store.engine.later("SELECT pg_notify('other', '')")

    with holder(small):
        fill(small, math.inf)
        with pytest.raises(StoreUnavailable, match=r"nothing was written.*dispatcher doctor"):
            work()
        with store.snapshot():
            assert [] == store.engine.rows("SELECT id FROM tasks")


def test_the_warning_about_a_half_full_queue_leaves_no_doubt_about_a_commit(
    small: Postgres, store: SqlStore
) -> None:
    small.restart()  # it warns once in 5 s, and whoever fills the page in the middle
    with holder(small):
        fill(small, 31 / PAGES)
        with store.transaction():
            store.submit([new_task()], now=NOW)
            store.engine.later(NOTIFY)


def test_what_no_index_can_hold_is_refused_all_the_same(server: Postgres, store: SqlStore) -> None:
    server.sql("CREATE INDEX ON dispatcher.meta (value)")

    def work() -> None:
        with store.transaction():
            digits = "(SELECT string_agg(md5(CAST(n AS TEXT)), '') FROM generate_series(1, 999) n)"
            store.engine.later(f"INSERT INTO meta VALUES ('long', {digits})")

    with pytest.raises(StoreRefused, match="index row"):
        work()


def test_nobody_rings_from_the_limit_on(
    server: Postgres, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Time()
    with closing(bell_at(server.url(), time)) as bell:
        settle(bell)
        monkeypatch.setattr(store.bell, "statement", store.bell.statement.replace(str(FULL), "0.0"))
        submit(store)
        server.sql("NOTIFY dispatcher, 'the sign that all before it has arrived'")
        heard = bell.heard
        assert rings_of(bell)

        assert heard is not None
        assert heard + 1 == bell.heard
