"""Behaviour of SQLite alone: a file that may be locked, damaged, full, replaced or gone."""

import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pysqlite3 import dbapi2

from dispatcher.errors import CommitUnknown, StoreRefused, StoreUnavailable, StoreUnusable
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.store.sqlite_library import check_library
from dispatcher.store.sqlite_text import bound, of_each_row
from dispatcher.store.statements import moves, operators, readers, submitters
from dispatcher.store.statements.given import rows_of
from dispatcher.times import instant
from tests.contract.helpers import NOW, OneByOne, new_task
from tests.contract.sqlite_files import break_commit, opened

HOLDER = Path(__file__).with_name("holder.py")


# Locks -------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """Let another process hold the write lock of a database; gives what makes it let go."""
    with subprocess.Popen(
        [sys.executable, str(HOLDER), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        yield holder.stdin.close
        holder.stdin.close()


def test_r53_a_lock_held_by_others_is_an_answer_in_time_and_then_forgotten(path: Path) -> None:
    with closing(opened(path, patience=0.02)) as store:
        with locked(path):
            begun = instant()
            with (
                pytest.raises(StoreUnavailable, match=r"tasks\.db: another process .* 0\.02 s"),
                store.transaction(),
            ):
                pass
            waited = instant() - begun

        with store.transaction() as now:
            assert store.submit([new_task()], now=now)[0].task_id == 2

    assert waited >= 0.02


def test_r53_a_patient_writer_gets_the_lock(path: Path) -> None:
    with closing(opened(path, patience=20)) as store, locked(path) as let_go:
        threading.Timer(0.1, let_go).start()

        with store.transaction() as now:
            store.submit([new_task()], now=now)


def test_r53_opening_waits_for_no_writer(path: Path) -> None:
    with locked(path), closing(opened(path)) as store, store.snapshot():
        assert store.task(1) is not None


# Failures to write -------------------------------------------------------------------------


def test_a_commit_without_a_clear_answer_raises_and_the_next_connection_is_fresh(
    path: Path,
) -> None:
    with closing(opened(path)) as store:
        old = store.engine.connection
        break_commit(store, path)

        with store.transaction() as now:
            fresh = store.engine.connection
            store.submit([new_task()], now=now)
        with store.snapshot():
            counts = store.counts()

    assert old is not fresh
    assert counts == {"default": {"ready": 2}}


def fill_up(store: SqlStore) -> None:
    """Write until the database may not grow any more."""
    with store.transaction():
        store.submit([new_task()], now=NOW)
        store.engine.rows("PRAGMA max_page_count = 1")
        store.submit([new_task(payload="x" * 100_000)], now=NOW)


def test_a_full_disk_is_unavailable_and_nothing_is_written(path: Path) -> None:
    with closing(opened(path)) as store:
        with pytest.raises(StoreUnavailable, match="full") as full:
            fill_up(store)

        with store.transaction():
            assert store.counts() == {"default": {"ready": 1}}
            store.submit([new_task(payload="x" * 100_000)], now=NOW)

    assert not isinstance(full.value, CommitUnknown)


def test_each_row_of_a_change_is_bound_and_every_other_batch_is_json() -> None:
    given = {"given": rows_of([{"id": 1, "reason": "x"}, {"id": 2}]), "now": 5, "who": "me"}

    assert moves.HOLD.event is not None
    for change in (
        moves.HOLD.statement,
        moves.HOLD.event,
        submitters.submit(("id", "reason")),
    ):
        each = of_each_row(change, given)
        assert each is not None
        assert not re.search(r"json_each|:|\bgiven\b", each.text)
        assert ("id", "reason") == each.columns
        shared = [given[name] for name in each.shared]
        assert [[1, "x", *shared], [2, None, *shared]] == each.parameters(given)
    for other in (submitters.TASKS_WITH_KEYS, readers.OPEN_RUNS_AMONG, operators.DELETE):
        assert of_each_row(other, given) is None
        assert "json_each" in bound(other, given)[0]


@pytest.mark.parametrize("wrong", ["SELECT id FROM tasks JOIN", "SELECT id FROM JOIN tasks"])
def test_a_wrong_statement_is_a_bug_and_never_called_damage(path: Path, wrong: str) -> None:
    with closing(opened(path)) as store:
        with pytest.raises(dbapi2.OperationalError), store.transaction():
            store.engine.rows(wrong)

        with store.transaction() as now:
            assert [2] == [one.task_id for one in store.submit([new_task()], now=now)]


def test_want_of_descriptors_is_unavailable_and_passes(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(opened(path)) as store:
        break_commit(store, path)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # so low that no other is free
        try:
            with pytest.raises(StoreUnavailable), store.transaction():
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        with store.transaction():
            assert store.task(1) is not None


# The rest ----------------------------------------------------------------------------------


def test_every_commit_is_synced_and_keys_are_checked(path: Path) -> None:
    with closing(opened(path)) as store, store.snapshot():
        pragmas = {
            name: store.engine.rows(f"PRAGMA {name}")
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert pragmas == {
        "journal_mode": [("wal",)],
        "synchronous": [(2,)],
        "foreign_keys": [(1,)],
        "busy_timeout": [(0,)],
    }


@pytest.mark.parametrize("version", [(3, 51, 2), (3, 40, 1)])
def test_a_library_with_the_corruption_bug_is_refused(version: tuple[int, ...]) -> None:
    with pytest.raises(StoreUnusable, match=r"SQLite 3\.\d+\.\d .* pip install"):
        check_library(version)


def test_the_first_safe_library_is_accepted() -> None:
    check_library((3, 51, 3))


def test_a_store_in_memory_works_and_is_its_own(tmp_path: Path) -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        memory = open_store(url, state_dir=tmp_path / "state", patience=0)
        store = OneByOne(memory)
        claim = store.claimed()
        store.end(claim)
        with pytest.raises(StoreRefused):
            store.new(queue="")

        assert store.states() == {1: "succeeded"}
        memory.close()

    assert list(tmp_path.iterdir()) == []


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%20d e&mode=ro" / "tasks ü.db"
    with closing(opened(path)) as store, store.transaction() as now:
        store.submit([new_task()], now=now)

    assert [path] == list(path.parent.iterdir())


def test_a_replaced_file_is_found_through_a_symbolic_link(path: Path, tmp_path: Path) -> None:
    link, other = tmp_path / "link.db", tmp_path / "x" / "store" / "tasks.db"
    link.symlink_to(path)
    opened(other).close()
    with closing(SqliteEngine(link, patience=0)) as engine:
        engine.begin(write=True)
        engine.commit()
        link.unlink()
        link.symlink_to(other)

        with pytest.raises(StoreUnusable, match="replaced"):
            engine.begin(write=True)
