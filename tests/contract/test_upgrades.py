"""Upgrades of a store on a server, where dispatchers of other hosts may work meanwhile."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dispatcher.errors import AlreadyHeld, StoreUnavailable, StoreUnusable
from dispatcher.store import migrate, migrations
from dispatcher.store.api import Store
from dispatcher.store.open import open_store
from tests.contract.helpers import SHARED, OneByOne
from tests.eventually import eventually
from tests.postgres import Postgres

pytestmark = [SHARED, pytest.mark.usefixtures("unmade")]

#: Steps to come.
COLOUR = "ALTER TABLE tasks ADD COLUMN colour TEXT; CREATE TABLE colours (name TEXT PRIMARY KEY);"
BROKEN = "ALTER TABLE tasks ADD COLUMN shape TEXT; ALTER TABLE absent ADD COLUMN shape TEXT;"
RENAMED = "ALTER TABLE tasks RENAME COLUMN reason TO because;"

KNOWN = len(migrations.MIGRATIONS)


class Dispatcher:
    """A release: the steps that it knows, and how it opens the store."""

    def __init__(self, url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._url, self._state_dir, self._monkeypatch = url, state_dir, monkeypatch
        self._opened: list[Store] = []

    def open(self, *more: str, keeping: bool = False, **options: Any) -> OneByOne:
        """Open the store as a release that knows some steps more than this one."""
        steps = (*migrations.MIGRATIONS[:KNOWN], *more)
        self._monkeypatch.setattr(migrations, "MIGRATIONS", steps)
        kept = range(KNOWN + 1, len(steps) + 1) if keeping else ()
        self._monkeypatch.setattr(migrations, "KEEPING", frozenset(kept))
        store = open_store(
            self._url, state_dir=self._state_dir, **{"patience": 5, "upgrade": True, **options}
        )
        self._opened.append(store)
        return OneByOne(store)

    def close(self) -> None:
        for store in self._opened:
            store.close()
        self._opened.clear()


@pytest.fixture
def dispatcher(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    with closing(Dispatcher(url, tmp_path / "state", monkeypatch)) as dispatcher:
        yield dispatcher


def version(postgres: Postgres) -> str:
    ((found,),) = postgres.sql("SELECT value FROM dispatcher.meta WHERE key = 'schema_version'")
    return str(found)


def end_sessions(postgres: Postgres) -> None:
    """End all sessions of dispatchers, as if their hosts were cut off."""
    sessions = "FROM pg_stat_activity WHERE application_name LIKE 'dispatcher %'"
    postgres.sql(f"SELECT pg_terminate_backend(pid) {sessions}")

    def are_gone() -> None:
        assert [] == postgres.sql(f"SELECT 1 {sessions}")

    eventually(are_gone)


def test_an_older_schema_is_upgraded_and_keeps_what_was_stored(
    dispatcher: Dispatcher, postgres: Postgres
) -> None:
    task_id = dispatcher.open().new()
    dispatcher.close()
    newer = dispatcher.open(COLOUR)

    assert [(task_id, None)] == postgres.sql("SELECT id, colour FROM dispatcher.tasks")
    assert str(KNOWN + 1) == version(postgres)
    assert task_id == newer.task(task_id).id


def test_an_older_schema_is_refused_without_leave_to_upgrade_it(dispatcher: Dispatcher) -> None:
    dispatcher.open()

    with pytest.raises(StoreUnusable, match=r"older dispatcher.*dispatcher migrate"):
        dispatcher.open(COLOUR, upgrade=False)


def _open_alone(dispatcher: Dispatcher, *steps: str) -> None:
    """Open it, once the server has noticed that all other sessions were closed."""
    try:
        dispatcher.open(*steps)
    except AlreadyHeld as error:
        raise AssertionError(error) from error


def test_an_upgrade_happens_whole_or_not_at_all(dispatcher: Dispatcher, postgres: Postgres) -> None:
    dispatcher.open()
    dispatcher.close()
    with pytest.raises(StoreUnusable):
        eventually(lambda: _open_alone(dispatcher, COLOUR, BROKEN))

    assert str(KNOWN) == version(postgres)
    assert "colour" not in dispatcher.open().columns("tasks")


def test_who_knows_the_version_before_works_on_through_an_upgrade_that_keeps_it(
    dispatcher: Dispatcher,
) -> None:
    older = dispatcher.open()
    claimed = older.claimed()
    newer = dispatcher.open(COLOUR, keeping=True)
    newer.new()

    assert 1 == len(older.take())
    assert older.end(claimed)
    assert 2 == len(older.states())
    assert 1 == older.new(queue="own") - max(older.states()) + 1


def test_who_knows_the_version_before_may_begin_after_such_an_upgrade(
    dispatcher: Dispatcher, postgres: Postgres
) -> None:
    dispatcher.open()
    dispatcher.open(COLOUR, keeping=True)

    older = dispatcher.open()
    assert {1} == set(older.states()) | {older.new()}
    assert str(KNOWN + 1) == version(postgres), "it left the newer version there"


def test_two_versions_ahead_is_too_far_unless_both_steps_keep_it(dispatcher: Dispatcher) -> None:
    dispatcher.open()
    dispatcher.open(COLOUR, "CREATE TABLE shapes (name TEXT)", keeping=True)

    dispatcher.open()


def test_an_upgrade_that_keeps_nobody_names_who_uses_the_store_and_waits_for_them(
    dispatcher: Dispatcher, postgres: Postgres, tmp_path: Path, url: str
) -> None:
    dispatcher.open()
    with pytest.raises(AlreadyHeld, match=r"in use by dispatcher .* \(server's pid \d+\); stop"):
        dispatcher.open(RENAMED)
    assert str(KNOWN) == version(postgres)

    dispatcher.close()
    dispatcher.open(RENAMED)
    assert str(KNOWN + 1) == version(postgres)


def test_who_was_cut_off_during_such_an_upgrade_finds_it_before_it_writes(
    dispatcher: Dispatcher, postgres: Postgres
) -> None:
    older = dispatcher.open()
    end_sessions(postgres)
    dispatcher.open(RENAMED)

    steps = migrations.MIGRATIONS
    migrations.MIGRATIONS = steps[:KNOWN]  # as the older one has them
    try:
        for _ in range(2):
            with pytest.raises(StoreUnusable, match="newer dispatcher"):
                older.new()
    finally:
        migrations.MIGRATIONS = steps


def test_nobody_begins_while_such_an_upgrade_is_made(
    dispatcher: Dispatcher, url: str, tmp_path: Path
) -> None:
    store = dispatcher.open()
    engine = store.raw.engine
    with store.raw.transaction():
        engine.rows(f"SELECT pg_advisory_xact_lock({engine._server.in_use})")
        with pytest.raises(StoreUnavailable, match="held a lock"):
            open_store(url, state_dir=tmp_path, patience=0.1)

    open_store(url, state_dir=tmp_path, patience=5).close()


def test_two_upgrades_at_once_apply_each_step_once(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch, postgres: Postgres
) -> None:
    dispatcher.open()
    dispatcher.close()
    upgrade, raced = migrate._upgrade, []

    def overtaken(*arguments: Any) -> None:
        if not raced:
            raced.append(True)
            dispatcher.open(COLOUR, keeping=True)
        upgrade(*arguments)

    monkeypatch.setattr(migrate, "_upgrade", overtaken)
    dispatcher.open(COLOUR, keeping=True)

    assert str(KNOWN + 1) == version(postgres)


def test_a_change_of_tables_waits_for_a_lock_briefly_as_others_wait_behind_it(
    dispatcher: Dispatcher, postgres: Postgres
) -> None:
    dispatcher.open()
    dispatcher.close()
    with closing(postgres.connect()) as reader:
        reader.execute("BEGIN; SELECT * FROM dispatcher.tasks")
        with pytest.raises(StoreUnavailable, match="held a lock"):
            dispatcher.open(COLOUR)

    dispatcher.open(COLOUR)


def test_only_the_owner_of_the_schema_upgrades_it(
    dispatcher: Dispatcher, postgres: Postgres, url: str, tmp_path: Path
) -> None:
    dispatcher.open()
    dispatcher.close()
    postgres.sql(
        "CREATE ROLE worker LOGIN; GRANT USAGE ON SCHEMA dispatcher TO worker;"
        " GRANT ALL ON ALL TABLES IN SCHEMA dispatcher TO worker"
    )
    try:
        worker = Dispatcher(postgres.url(user="worker"), tmp_path, dispatcher._monkeypatch)
        worker.open()
        worker.close()
        with pytest.raises(StoreUnusable, match=r"only the owner .*dispatcher migrate"):
            worker.open(COLOUR, keeping=True)
    finally:
        postgres.sql("DROP OWNED BY worker; DROP ROLE worker")


def test_a_step_writes_texts_that_sort_by_their_bytes(
    dispatcher: Dispatcher, postgres: Postgres
) -> None:
    dispatcher.open()
    dispatcher.close()
    dispatcher.open(COLOUR)

    assert [("C",), ("C",)] == postgres.sql(
        "SELECT collation_name FROM information_schema.columns"
        " WHERE table_schema = 'dispatcher' AND column_name IN ('colour', 'name')"
        " AND table_name IN ('tasks', 'colours')"
    )


def test_the_step_for_many_nodes_is_the_first_of_a_server(
    dispatcher: Dispatcher, postgres: Postgres
) -> None:
    dispatcher.open()
    dispatcher.close()
    postgres.sql("UPDATE dispatcher.meta SET value = '3' WHERE key = 'schema_version'")

    with pytest.raises(StoreUnusable, match="no release has left"):
        dispatcher.open()


def test_a_session_that_finds_another_store_in_the_place_of_its_own_is_refused(
    dispatcher: Dispatcher, postgres: Postgres
) -> None:
    store = dispatcher.open()
    postgres.sql("UPDATE dispatcher.meta SET value = 'another' WHERE key = 'store_id'")
    end_sessions(postgres)

    for _ in range(2):
        with pytest.raises(StoreUnusable, match="replaced by another store"):
            store.new()
