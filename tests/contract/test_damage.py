"""A store that is not what was left is refused, touched by nobody."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.errors import StoreUnusable
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NOW, new_task
from tests.contract.sqlite_files import (
    break_commit,
    descriptors,
    files,
    meddle,
    opened,
    replaced,
)


def foreign(path: Path) -> None:
    """Put another program's database in the place."""
    path.unlink()
    meddle(path, "CREATE TABLE songs (title TEXT)")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut in a page": lambda path: os.truncate(path, 5000),
    "garbage": lambda path: path.write_bytes(b"garbage " * 1000),
    "empty": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "a table is missing": lambda path: meddle(path, "DROP TABLE runs"),
    "a newer schema": lambda path: meddle(
        path, "UPDATE meta SET value = '99' WHERE key <> 'store_id'"
    ),
    "another program's": foreign,
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


#: The remedy for a stranger to root's files.
ROOT = "run this as that user: sudo -u root"


def test_r50_a_directory_that_nobody_may_enter_any_more_is_reported_as_closed(path: Path) -> None:
    """Nothing is known of the files then, so also not that they are gone."""
    with closing(opened(path)) as store:
        before = os.geteuid()
        path.parent.chmod(0o000)
        try:
            os.seteuid(before or 65_534)
            with pytest.raises(StoreUnusable) as refused, store.transaction():
                pass
        finally:
            os.seteuid(before)
            path.parent.chmod(0o700)

        # As an ordinary user it is still ours, as root it becomes another user's.
        own = "give this user permission to enter its directory"
        others = {f"{place} belongs to user root; {ROOT}" for place in path.parents}
        remedy = str(refused.value).removeprefix(f"{path}: Permission denied; ")
        assert remedy in ({own} if before else others)
        with store.transaction() as now:
            store.submit([new_task()], now=now)


# Damage ------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE)
def test_r50_a_damaged_store_is_refused_untouched_and_named(path: Path, damage: str) -> None:
    DAMAGE[damage](path)
    before = {} if path.is_dir() else files(path)

    with pytest.raises(StoreUnusable) as refused:
        opened(path)

    assert before == ({} if path.is_dir() else files(path))
    assert "tasks.db" in str(refused.value) or "newer dispatcher" in str(refused.value)
    assert any(word in str(refused.value) for word in ("restore", "upgrade", "store.url"))


@pytest.mark.parametrize("damage", DAMAGE)
def test_r51_r52_a_hundred_failing_opens_leave_no_file_and_no_descriptor(
    path: Path, damage: str
) -> None:
    DAMAGE[damage](path)
    before = sorted(path.parent.iterdir()), descriptors()

    for _ in range(100):
        with pytest.raises(StoreUnusable):
            opened(path)

    assert before == (sorted(path.parent.iterdir()), descriptors())


def test_r52_open_and_close_leave_no_descriptor(path: Path) -> None:
    before = descriptors()

    for _ in range(300):
        with closing(opened(path)) as store, store.transaction() as now:
            store.next_due()
            assert now

    assert before == descriptors()


def test_r52_fresh_connections_leave_no_descriptor(path: Path) -> None:
    with closing(opened(path)) as store:
        before = descriptors()
        for _ in range(100):
            break_commit(store, path)
            with store.transaction():
                pass

        assert before == descriptors()


def read(store: SqlStore, task_id: int) -> object:
    return store.runs(task_id), store.task(task_id)


@pytest.mark.parametrize("statement", ["DROP TABLE runs", "ALTER TABLE tasks DROP COLUMN reason"])
def test_r50_a_table_that_goes_missing_in_use_does_not_crash_the_store(
    path: Path, statement: str
) -> None:
    with closing(opened(path)) as store:
        meddle(path, statement)
        with pytest.raises(StoreUnusable, match=r"tasks\.db.* restore"), store.transaction():
            read(store, 1)


@pytest.mark.parametrize(
    "change",
    [
        replaced,
        Path.unlink,
        lambda path: Path(f"{path}-wal").unlink(),
        lambda path: Path(f"{path}-shm").unlink(),
        lambda path: path.parent.rename(path.parent.with_name("elsewhere")),
    ],
    ids=["replaced", "removed", "wal removed", "shm removed", "directory moved"],
)
def test_r50_a_file_replaced_or_removed_in_use_is_found_at_the_next_transaction(
    path: Path, change: Callable[[Path], object]
) -> None:
    with closing(opened(path)) as store:
        change(path)

        for _ in range(2):
            with (
                pytest.raises(StoreUnusable, match=r"tasks\.db.* in use; .*restore"),
                store.transaction(),
            ):
                pass


def test_r50_a_file_put_back_is_used_again(path: Path) -> None:
    aside = path.with_name("aside.db")
    with closing(opened(path)) as store:
        path.rename(aside)
        with pytest.raises(StoreUnusable), store.transaction():
            pass
        aside.rename(path)

        with store.transaction():
            assert store.task(1) is not None


def overwritten(path: Path) -> None:
    """Write another store's database over a file, as a careless restore does."""
    other = path.parent.parent / "other" / "store" / "tasks.db"
    opened(other).close()
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("change", [replaced, overwritten])
def test_r50_a_fresh_connection_goes_to_the_same_store_or_to_none(
    path: Path, change: Callable[[Path], object]
) -> None:
    with closing(opened(path)) as store:
        break_commit(store, path)
        change(path)

        with pytest.raises(StoreUnusable, match="replaced"), store.transaction():
            pass


def test_r50_a_wal_without_its_database_is_refused(path: Path) -> None:
    wal = Path(f"{path}-wal")
    with closing(opened(path)) as store:
        with store.transaction():
            store.submit([new_task()], now=NOW)
        kept = wal.read_bytes()
    path.unlink()
    wal.write_bytes(kept)
    shutil.rmtree(path.parent.parent / "state")

    with pytest.raises(StoreUnusable, match=r"tasks\.db-wal holds its last commits"):
        opened(path)

    assert {wal.name} == set(files(path))
