"""A store that a server's tools restored is refused until it repeats no id and no fence."""

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dispatcher.errors import AlreadyHeld, StoreUnusable
from dispatcher.store.open import open_store, remembered_identity, server_of
from dispatcher.store.restore import LEAP, Restored
from dispatcher.store.restore_shared import restore_shared
from dispatcher.times import WallTime, wall_clock
from tests.contract.helpers import SHARED, OneByOne
from tests.postgres import Postgres

pytestmark = [SHARED, pytest.mark.usefixtures("unmade")]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def opened(url: str, state_dir: Path) -> OneByOne:
    return OneByOne(open_store(url, state_dir=state_dir, patience=5))


def restored(url: str, state_dir: Path, *, complete: bool = False, now: int = 0) -> Restored:
    return restore_shared(
        server_of(url, "dispatcher", patience=5),
        remembered=remembered_identity(state_dir),
        complete=complete,
        now=WallTime(now or wall_clock()),
    )


@pytest.fixture
def copied(url: str, state_dir: Path, postgres: Postgres) -> Iterator[str]:
    """The identity of a store whose copy, with a running task, lies in its place."""
    store = opened(url, state_dir)
    with closing(store.raw):
        store.claimed()
        store.new()
        identity = store.raw.identity
        dump(postgres, state_dir)
        for _ in range(3):  # after the dump
            store.claimed(queue="later")
    postgres.sql("DROP SCHEMA dispatcher CASCADE")
    put_back(postgres, state_dir)
    return identity


def dump(postgres: Postgres, place: Path) -> None:
    with (place / "dump.sql").open("wb") as output:
        run(postgres, "pg_dump", "--schema=dispatcher", stdout=output)


def put_back(postgres: Postgres, place: Path) -> None:
    run(
        postgres,
        "psql",
        "--quiet",
        "--no-psqlrc",
        "-v",
        "ON_ERROR_STOP=1",
        "-o",
        "/dev/null",
        "-f",
        str(place / "dump.sql"),
    )


def run(postgres: Postgres, program: str, *options: str, stdout: Any = None) -> None:
    """Run one of the server's own tools, which a copy of the server alone lacks."""
    path = postgres.programs / program
    if not path.exists():
        pytest.skip(f"{path} is not there")
    subprocess.run([path, f"--dbname={postgres.url()}", *options], stdout=stdout, check=True)


def test_a_copy_is_refused_by_everybody_with_the_remedy(
    copied: str, url: str, state_dir: Path
) -> None:
    with pytest.raises(StoreUnusable, match=r"copy of a store.*dispatcher restore"):
        opened(url, state_dir)


def test_a_restored_store_repeats_neither_ids_nor_fences_and_knows_its_predecessor(
    copied: str, url: str, state_dir: Path
) -> None:
    done = restored(url, state_dir)
    store = opened(url, state_dir)
    with closing(store.raw):
        task_id = store.new(queue="new")
        ((fence,),) = in_one(store, "SELECT max(fence) FROM tasks WHERE id = 1")
        predecessors = in_one(store, "SELECT value FROM meta WHERE key = 'predecessors'")
        (claim,) = store.take("new")

    assert (2, 1, None) == (done.tasks, done.running, done.kept)
    assert task_id == done.next_id > 5 + LEAP
    assert fence > LEAP
    assert done.identity == store.raw.identity != copied
    assert [(copied,)] == predecessors
    assert task_id == claim.task_id


def in_one(store: OneByOne, statement: str) -> list[tuple[object, ...]]:
    with store.raw.transaction():
        return store.sql(statement)


def test_a_complete_copy_goes_on_with_its_ids_and_its_identity(
    copied: str, url: str, state_dir: Path
) -> None:
    done = restored(url, state_dir, complete=True)
    store = opened(url, state_dir)
    with closing(store.raw):
        assert done.next_id == store.new() == 3

    assert copied == done.identity == store.raw.identity


def test_two_restores_of_one_copy_repeat_nothing(
    copied: str, url: str, state_dir: Path, postgres: Postgres
) -> None:
    now = wall_clock()
    first = restored(url, state_dir, now=now)
    postgres.sql("DROP SCHEMA dispatcher CASCADE")
    put_back(postgres, state_dir)
    second = restored(url, state_dir, now=now + 1000)

    assert second.next_id - first.next_id == 1000
    assert first.identity != second.identity


def test_nothing_is_restored_under_others(copied: str, url: str, state_dir: Path) -> None:
    restored(url, state_dir)
    store = opened(url, state_dir)
    with closing(store.raw), pytest.raises(AlreadyHeld, match="in use by dispatcher"):
        restored(url, state_dir)

    restored(url, state_dir)


def test_where_nothing_was_restored_that_is_reported(url: str, state_dir: Path) -> None:
    with pytest.raises(StoreUnusable, match="holds no store; restore one there first"):
        restored(url, state_dir)
