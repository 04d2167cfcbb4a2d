"""A store behind a pooler that gives each transaction another session of the server."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest

from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnavailable, StoreUnusable
from dispatcher.store import migrations
from dispatcher.store.engine import transaction
from dispatcher.store.open import open_store
from dispatcher.store.postgresql import PostgresqlEngine
from dispatcher.store.server import DatabaseServer
from dispatcher.store.shared import refuse_others
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import OneByOne
from tests.eventually import eventually
from tests.pooler import Pooler
from tests.postgres import Postgres, running

SCHEMA = "pooled"
KNOWN = len(migrations.MIGRATIONS)
META = f"UPDATE {SCHEMA}.meta SET value = '{{}}' WHERE key = '{{}}'"

SETTINGS = """
SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),
    current_setting('idle_in_transaction_session_timeout'), current_setting('enable_seqscan'),
    current_setting('search_path')
"""


@pytest.fixture(scope="module")
def server(server_files: Path) -> Iterator[Postgres]:
    """A server for these tests alone, which change its settings."""
    with running(server_files) as server:
        yield server


@pytest.fixture
def pooler(server: Postgres) -> Iterator[Pooler]:
    with Pooler(server).running() as pooler:
        yield pooler
    server.sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


def opened(url: str, state_dir: Path, *, patience: float = 5) -> OneByOne:
    store = open_store(url, state_dir=state_dir, patience=patience, schema=SCHEMA)
    assert isinstance(store, SqlStore)
    return OneByOne(store)


@pytest.fixture
def store(pooler: Pooler, tmp_path: Path) -> Iterator[OneByOne]:
    store = opened(pooler.url(), tmp_path)
    with closing(store.raw):
        yield store


def read(store: OneByOne) -> None:
    with store.raw.snapshot():
        store.raw.task(1)


def in_one(store: OneByOne, statement: str) -> list[tuple[object, ...]]:
    with store.raw.transaction():
        return store.sql(statement)


def test_each_transaction_has_another_session_and_all_that_it_needs(store: OneByOne) -> None:
    pids = {in_one(store, "SELECT pg_backend_pid()")[0] for _ in range(6)}
    found = {in_one(store, SETTINGS)[0] for _ in range(6)}
    store.new()

    assert 3 == len(pids)
    assert {("5s", "6s", "7s", "off", f'"{SCHEMA}"')} == found


def test_nothing_stays_in_the_sessions_which_others_use_too(
    store: OneByOne, pooler: Pooler, server: Postgres
) -> None:
    for _ in range(6):
        store.new()
        in_one(store, SETTINGS)
    left = f"{SETTINGS}, (SELECT count(*) FROM pg_prepared_statements)"
    with closing(psycopg.connect(pooler.url(), autocommit=True)) as other:
        found = {other.execute(left.encode(), prepare=False).fetchone() for _ in range(6)}

    assert {("0", "0", "0", "on", '"$user", public', 0)} == found
    assert [] == server.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")


def test_a_role_that_waits_for_no_disk_waits_for_it_here(
    pooler: Pooler, server: Postgres, tmp_path: Path
) -> None:
    server.sql("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        with closing(opened(pooler.url(), tmp_path).raw) as store, store.transaction():
            assert [("local",)] == store.engine.rows("SELECT current_setting('synchronous_commit')")
    finally:
        server.sql("ALTER ROLE postgres RESET synchronous_commit")


# What is found once in a session, where a session is the process's own ----------------------------


@pytest.mark.parametrize("write", [True, False])
def test_a_newer_version_of_the_store_is_found_at_the_next_transaction(
    store: OneByOne, server: Postgres, write: bool
) -> None:
    store.new()
    for key in ("schema_version", "usable_since"):
        server.sql(META.format(KNOWN + 1, key))

    with pytest.raises(StoreUnusable, match="newer dispatcher"):
        store.new() if write else read(store)


def test_a_newer_version_with_which_it_can_work_is_no_obstacle(
    store: OneByOne, server: Postgres
) -> None:
    store.new()
    server.sql(META.format(KNOWN + 1, "schema_version"))

    store.new()


def test_another_store_in_the_same_tables_is_found_at_the_next_transaction(
    store: OneByOne, server: Postgres
) -> None:
    store.new()
    server.sql(META.format("another", "store_id"))

    with pytest.raises(StoreUnusable, match="replaced by another store"):
        store.new()


def test_the_history_is_read_anew_after_a_restart_of_the_server(
    store: OneByOne, server: Postgres
) -> None:
    store.new()
    store.new()
    before = store.raw.engine.origin
    store.new()
    assert before == store.raw.engine.origin
    server.restart()
    with suppress(StoreUnavailable):  # that of its last session
        store.new()
    store.new()

    assert before != store.raw.engine.origin


def test_who_works_alone_with_a_store_lets_no_transaction_begin(
    store: OneByOne, pooler: Pooler, server: Postgres, tmp_path: Path
) -> None:
    store.new()
    at = DatabaseServer.of(server.url(), schema=SCHEMA, patience=1)
    hasty = opened(pooler.url(), tmp_path, patience=0.05)
    with closing(PostgresqlEngine(at)) as alone, closing(hasty.raw):
        with transaction(alone, write=True, schema=True):
            refuse_others(alone, at)
            for use in (hasty.new, lambda: read(hasty)):
                with pytest.raises(StoreUnavailable, match="held a lock"):
                    use()
        hasty.new()

        with hasty.raw.transaction():
            hasty.sql("SELECT 1")
            with (
                pytest.raises(StoreUnavailable, match="held a lock"),
                transaction(alone, write=True, schema=True),
            ):
                refuse_others(alone, at)


@pytest.mark.parametrize("write", [True, False])
def test_a_transaction_that_waited_for_an_upgrade_sees_it(
    store: OneByOne, server: Postgres, write: bool
) -> None:
    """Its snapshot is not older than the end of the wait."""
    store.new()
    waits = "SELECT 1 FROM pg_locks WHERE relation = CAST('{}.meta' AS regclass) AND NOT granted"
    found: list[BaseException] = []

    def use() -> None:
        try:
            store.new() if write else read(store)
        except StoreUnusable as error:
            found.append(error)

    with closing(server.connect()) as upgrade:
        upgrade.execute("BEGIN")
        upgrade.execute(f"LOCK TABLE {SCHEMA}.meta IN ACCESS EXCLUSIVE MODE".encode())
        waiting = threading.Thread(target=use)
        waiting.start()
        eventually(lambda: _assert_some(server, waits.format(SCHEMA)))
        for key in ("schema_version", "usable_since"):
            upgrade.execute(META.format(KNOWN + 1, key).encode())
        upgrade.execute("COMMIT")
        waiting.join()

    assert ["newer dispatcher"] == re.findall("newer dispatcher", str(found))


def _assert_some(server: Postgres, statement: str) -> None:
    assert server.sql(statement)


# A session that was given up ----------------------------------------------------------------------


def test_a_session_that_was_given_up_while_it_commits_is_ended(
    pooler: Pooler, server: Postgres, tmp_path: Path
) -> None:
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    store = opened(pooler.url(), tmp_path, patience=0.02)
    with closing(store.raw):
        store.new()
        server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.sql("SELECT pg_reload_conf()")
        try:
            eventually(lambda: _assert_unknown(store))  # once the session knows the setting
            assert [(1,)] == server.sql(waits)
            in_one(store, "SELECT 1")
            eventually(lambda: _assert_none(server, waits))
        finally:
            server.sql("ALTER SYSTEM RESET synchronous_standby_names")
            server.sql("SELECT pg_reload_conf()")


def _assert_unknown(store: OneByOne) -> None:
    known = ""
    try:
        store.new()
    except CommitUnknown as error:
        known = str(error)
    assert "did not answer in time" in known


def _assert_none(server: Postgres, statement: str) -> None:
    assert [] == server.sql(statement)


def ending(server: Postgres, end: tuple[bytes, Sequence[int]]) -> list[tuple[object, ...]]:
    """Return what the statement returns that ends a session which was given up."""
    text, values = end
    for place, value in enumerate(values, 1):
        text = text.replace(b"$%d" % place, b"%d" % value)
    return server.sql(text.decode())


def test_a_session_that_another_client_has_by_now_is_not_ended(
    store: OneByOne, server: Postgres
) -> None:
    engine = store.raw.engine
    assert isinstance(engine, PostgresqlEngine)
    in_one(store, "SELECT 1")
    text, gone = engine._beginning.end
    with suppress(DispatcherError), store.raw.transaction():
        store.sql("SELECT 1")
        _, now = engine._beginning.end
        assert [] == ending(server, (text, gone)), "not in that transaction any more"
        assert [] == ending(server, (text, [now[0], gone[1]])), "in another one"
        assert [(True,)] == ending(server, (text, now))


# A pooler that does not show itself ---------------------------------------------------------------


def test_a_pooler_that_gives_clients_the_number_of_a_session_is_named_with_the_remedy(
    server: Postgres, tmp_path: Path
) -> None:
    opened(server.url(), tmp_path).raw.close()
    with (
        Pooler(server, has_own_pids=False).running() as pooler,
        pytest.raises(StoreUnusable, match=r"a pooler is in between .* session mode"),
    ):
        opened(pooler.url(), tmp_path)
    server.sql(f"DROP SCHEMA {SCHEMA} CASCADE")
