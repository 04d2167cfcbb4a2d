"""Counts on a server: nobody waits for another's, rows are added up, no role need write them."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.store import migrations
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NOW, SHARED, OneByOne, new_task
from tests.contract.interleaved import Sessions
from tests.contract.test_counts import agree
from tests.postgres import Postgres

pytestmark = SHARED

ROWS = "SELECT count(*) FROM dispatcher.counts"

#: What a store is like that version 14 made, but for what came after the counts.
AS_VERSION_14 = """
SET search_path = dispatcher;
DROP TABLE counts CASCADE;
DROP FUNCTION count_tasks() CASCADE;
DROP FUNCTION count_run() CASCADE;
DROP FUNCTION add_up_counts() CASCADE;
CREATE INDEX runs_closed ON runs (outcome) WHERE outcome IS NOT NULL;
UPDATE meta SET value = '14' WHERE key = 'schema_version'
"""

LAYOUT = """
SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE relnamespace = CAST('dispatcher' AS regnamespace)
UNION ALL SELECT pg_get_triggerdef(pg_trigger.oid) FROM pg_trigger
    JOIN pg_class ON pg_class.oid = tgrelid
WHERE relnamespace = CAST('dispatcher' AS regnamespace) AND NOT tgisinternal
UNION ALL SELECT pg_get_functiondef(oid) || array_to_string(proacl, ' ') FROM pg_proc
WHERE pronamespace = CAST('dispatcher' AS regnamespace)
ORDER BY 1
"""


@pytest.fixture
def sessions(postgres: Postgres, raw: SqlStore, tmp_path: Path) -> Iterator[Sessions]:
    with ExitStack() as stack:
        yield Sessions(postgres, tmp_path / "state", stack)


def rows(postgres: Postgres) -> int:
    ((many,),) = postgres.sql(ROWS)
    return int(many)


def test_nobody_waits_for_anothers_counts(sessions: Sessions, store: OneByOne) -> None:
    one, other = sessions.open(), sessions.open()
    store.new()
    with one.transaction():
        one.submit([new_task()], now=NOW)
        with other.transaction():
            other.engine.change("SET LOCAL lock_timeout = 1")
            other.submit([new_task()] * 2, now=NOW)
        assert {"default": {"ready": 3}} == store.counts()  # the other's, not the open one's

    assert {"default": {"ready": 4}} == store.counts()
    agree(store)


def test_rows_are_added_up(store: OneByOne, postgres: Postgres) -> None:
    for _ in range(40):
        with store.raw.transaction():
            for queue in "abcdefgh":
                store.raw.submit([new_task(queue=queue)], now=NOW)

    assert rows(postgres) < 128 + 8
    assert {queue: {"ready": 40} for queue in "abcdefgh"} == store.counts()
    agree(store)


def test_rows_of_queues_that_rested_long_are_added_up_too(
    store: OneByOne, postgres: Postgres
) -> None:
    for _ in range(2):
        store.new(queue="rare")
        postgres.sql("SELECT setval('dispatcher.counts_id_seq', 5000)")
    postgres.sql("SELECT setval('dispatcher.counts_id_seq', 16383)")
    store.new()

    assert 2 == rows(postgres)
    agree(store)


def test_rows_that_another_adds_up_are_left_to_it(
    sessions: Sessions, store: OneByOne, postgres: Postgres
) -> None:
    one = sessions.open()
    for _ in range(9):
        store.new()
    with one.transaction():
        one.engine.rows("SELECT * FROM counts WHERE id < 5 FOR UPDATE")
        for _ in range(130):
            store.new()
        assert 4 < rows(postgres) < 4 + 20
        agree(store)

    agree(store)


@contextmanager
def as_somebody(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """Connect as a role that may change tasks, and nothing else."""
    postgres.sql("CREATE ROLE somebody LOGIN; GRANT USAGE ON SCHEMA dispatcher TO somebody")
    postgres.sql("GRANT SELECT, UPDATE, DELETE ON dispatcher.tasks TO somebody")
    try:
        with closing(psycopg.connect(postgres.url(user="somebody"), autocommit=True)) as one:
            yield one
    finally:
        postgres.sql("DROP OWNED BY somebody; DROP ROLE somebody")


def test_what_any_role_changes_is_counted_wherever_it_searches(
    store: OneByOne, postgres: Postgres
) -> None:
    store.new()
    with as_somebody(postgres) as somebody:
        somebody.execute("CREATE TEMP TABLE counts (queue TEXT, state TEXT, many BIGINT)")
        somebody.execute("UPDATE dispatcher.tasks SET state = 'held'")
        assert [(0,)] == somebody.execute("SELECT count(*) FROM pg_temp.counts").fetchall()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            somebody.execute("INSERT INTO dispatcher.counts VALUES (0, 'x', 'ready', 5)")

    assert {"default": {"held": 1}} == store.counts()
    agree(store)


def test_no_role_lets_the_functions_count_tables_of_its_own(
    store: OneByOne, postgres: Postgres
) -> None:
    with as_somebody(postgres) as somebody:
        somebody.execute("CREATE TEMP TABLE mine (outcome TEXT)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="function"):
            somebody.execute(
                "CREATE TRIGGER untrue AFTER INSERT ON mine FOR EACH ROW"
                " EXECUTE FUNCTION dispatcher.count_run()"
            )


@pytest.mark.usefixtures("unmade")
def test_a_schema_that_is_renamed_goes_on_counting(
    url: str, postgres: Postgres, tmp_path: Path
) -> None:
    with closing(open_store(url, state_dir=tmp_path, patience=5)) as made:
        OneByOne(made).finished()
    postgres.sql("ALTER SCHEMA dispatcher RENAME TO renamed")
    try:
        place = {"schema": "renamed", "state_dir": tmp_path, "patience": 5}
        with closing(open_store(url, **place)) as opened:  # type: ignore[arg-type]
            store = OneByOne(opened)
            store.finished()
            store.new()
            assert {"own": {"succeeded": 2}, "default": {"ready": 1}} == store.counts()
            agree(store)
    finally:
        postgres.sql("DROP SCHEMA renamed CASCADE")


@pytest.mark.usefixtures("unmade")
def test_an_upgrade_counts_what_is_there_and_what_older_dispatchers_do_during_it(
    url: str, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir = tmp_path / "state"
    with ExitStack() as stack:
        fresh = open_store(url, state_dir=state_dir, patience=5)
        made = postgres.sql(LAYOUT)
        fresh.close()
        postgres.sql(AS_VERSION_14)
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:14])
            older = OneByOne(open_store(url, state_dir=state_dir, patience=5))
            stack.callback(older.raw.close)
        older.finished()
        claim = older.claimed()
        older.new()
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:15])
            newer = open_store(url, state_dir=state_dir, patience=5, upgrade=True)
        stack.callback(newer.close)
        older.end(claim)
        older.new()

        assert made == postgres.sql(LAYOUT)
        store = OneByOne(newer)
        assert {"own": {"succeeded": 2}, "default": {"ready": 2}} == store.counts()
        agree(store)
