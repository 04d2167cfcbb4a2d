"""A store that a server's tools restored is refused until it repeats no id and no fence."""

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.errors import AlreadyHeld, StoreUnavailable, StoreUnusable
from dispatcher.history import RETURN, History
from dispatcher.model import Node
from dispatcher.store.open import open_store, remembered_identity, server_of
from dispatcher.store.restore import LEAP, Restored
from dispatcher.store.restore_shared import restore_shared
from dispatcher.times import StoreTime, WallTime, wall_clock
from tests.contract.helpers import SHARED, OneByOne
from tests.eventually import eventually
from tests.postgres import Postgres

pytestmark = [SHARED, pytest.mark.usefixtures("unmade")]


#: How long the node's runs go on unconfirmed, and their kill grace.
LIMIT = 60_000
GRACE = 10_000

THERE = Node(
    id="there",
    boot_id="boot",
    pid_namespace="pid:[1]",
    hostname="there",
    slots=1,
    seen_at=StoreTime(0),
    seen_interval_ms=5_000,
    session="session",
    unconfirmed_ms=LIMIT,
)


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
        store.claimed(node="there", until=StoreTime(1), kill_grace_ms=GRACE)
        record_node(store)
        store.new()
        identity = store.raw.identity
        dump(postgres, state_dir)
        for _ in range(3):  # after the dump
            store.claimed(queue="later")
    postgres.sql("DROP SCHEMA dispatcher CASCADE")
    put_back(postgres, state_dir)
    return identity


def record_node(store: OneByOne) -> None:
    """Let a node work in this history."""
    with store.raw.transaction() as now:
        store.raw.record_node(replace(THERE, seen_at=now))
        store.raw.record_reconciled("there")


def dump(postgres: Postgres, place: Path) -> None:
    with (place / "whole.sql").open("wb") as output:
        run(postgres, "pg_dump", "--schema=dispatcher", stdout=output)
    lines = (place / "whole.sql").read_text().splitlines(keepends=True)
    known = [line for line in lines if "transaction_timeout" not in line]  # new in version 17
    (place / "dump.sql").write_text("".join(known))


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


def run(
    postgres: Postgres, program: str, *options: str, stdout: Any = None, check: bool = True
) -> None:
    command = [postgres.tools / program, f"--dbname={postgres.url()}", *options]
    subprocess.run(command, stdout=stdout, check=check)


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
        (claim,) = store.take("new", now=StoreTime(wall_clock() + 2 * LIMIT))

    assert (2, 1, None) == (done.tasks, done.running, done.kept)
    assert task_id == done.next_id > 5 + LEAP
    assert fence > LEAP
    assert done.identity == store.raw.identity != copied
    assert [(copied,)] == predecessors
    assert task_id == claim.task_id


def in_one(store: OneByOne, statement: str) -> list[tuple[object, ...]]:
    with store.raw.transaction():
        return store.sql(statement)


def test_fences_are_beyond_those_of_a_store_that_failed_over_after_the_copy(
    copied: str, url: str, state_dir: Path
) -> None:
    """The copy does not know of it, nor does the server to which the copy was moved."""
    now, lost = StoreTime(wall_clock()), History(timeline=1)
    for timeline in range(2, 10):
        lost = lost.after_failover(timeline, seen_at=now, limit_ms=LIMIT, now=now)

    restored(url, state_dir)
    store = opened(url, state_dir)
    with closing(store.raw):
        store.new(queue="new")
        (claim,) = store.take("new", now=StoreTime(wall_clock() + 2 * LIMIT))

    assert claim.fence > lost.fences_after + 1_000_000


def test_a_restored_store_is_claimed_from_once_each_node_of_the_copy_has_compared_its_runs(
    copied: str, url: str, state_dir: Path
) -> None:
    """Claims that the copy lacks may have workers on any host that was not stopped."""
    restored(url, state_dir)
    store = opened(url, state_dir)
    with closing(store.raw):
        with store.raw.transaction() as now:
            postponed = store.raw.postponed(now=now)
        assert postponed is not None
        assert ("there",) == postponed.nodes
        assert postponed.until is not None
        assert now + RETURN < postponed.until <= now + LIMIT
        with pytest.raises(StoreUnavailable, match="nothing is claimed until there has compared"):
            store.claim_local("default", owner="local:1", output_dir="/out", now=now)

        store.record_reconciled("there")
        assert store.postponed(now=now) == replace(postponed, nodes=(), until=now_plus(store))
        assert None is store.postponed(now=StoreTime(now + RETURN + 1))


def now_plus(store: OneByOne) -> StoreTime:
    """Return until when nodes may come back of which the copy knows nothing."""
    return store.raw.history.claims_after


def test_nobody_takes_over_what_a_copy_has_running_while_its_worker_may_live(
    copied: str, url: str, state_dir: Path
) -> None:
    """Its deadline is that of the copy, and passed long ago."""
    restored(url, state_dir)
    store = opened(url, state_dir)
    with closing(store.raw), store.raw.transaction() as now:

        def stranded(milliseconds: int) -> int:
            return len(store.raw.stranded("here", now=StoreTime(now + milliseconds)))

        assert [0, 0, 1] == [stranded(n) for n in (0, LIMIT, LIMIT + GRACE + 1)]


def test_a_complete_copy_goes_on_with_its_ids_and_its_identity_and_nothing_waits(
    copied: str, url: str, state_dir: Path
) -> None:
    done = restored(url, state_dir, complete=True)
    store = opened(url, state_dir)
    with closing(store.raw):
        assert done.next_id == store.new() == 3
        with store.raw.transaction() as now:
            assert None is store.raw.postponed(now=now)
            assert 1 == len(store.raw.stranded("here", now=now))

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

    def restored_alone() -> None:  # the server notices a moment later that a session was closed
        try:
            restored(url, state_dir)
        except AlreadyHeld as error:
            raise AssertionError from error

    eventually(restored_alone)


def test_where_nothing_was_restored_that_is_reported(url: str, state_dir: Path) -> None:
    with pytest.raises(StoreUnusable, match="holds no store; restore one there first"):
        restored(url, state_dir)


def test_a_store_that_is_put_back_while_it_is_used_is_noticed_by_those_who_use_it(
    postgres: Postgres, url: str, state_dir: Path, tmp_path: Path
) -> None:
    """Its counters are older: a session that goes on would repeat ids and fences."""
    store = opened(url, state_dir)
    with closing(store.raw):
        store.new()
        dump(postgres, tmp_path)
        first = store.new()
        postgres.sql("DROP SCHEMA dispatcher CASCADE")
        put_back(postgres, tmp_path)

        with pytest.raises(StoreUnavailable, match="restored or made anew while in use"):
            store.new()
        with pytest.raises(StoreUnusable, match=r"copy of a store.*dispatcher restore"):
            store.new()

    assert [(first - 1,)] == postgres.sql("SELECT id FROM dispatcher.tasks")


def test_tables_that_are_put_back_in_their_schema_are_a_copy_too(
    postgres: Postgres, url: str, state_dir: Path, tmp_path: Path
) -> None:
    """As by `pg_restore --clean --schema=dispatcher`, which leaves the schema as it is."""
    whole = tmp_path / "whole.dump"
    store = opened(url, state_dir)
    with closing(store.raw):
        store.new()
        run(postgres, "pg_dump", "--format=custom", "--schema=dispatcher", f"--file={whole}")
        first = store.new()
        schema = "SELECT oid FROM pg_namespace WHERE nspname = 'dispatcher'"
        before = postgres.sql(schema)
        options = ("--clean", "--schema=dispatcher", str(whole))
        run(postgres, "pg_restore", *options, check=False)  # a setting is new in version 17
        assert before == postgres.sql(schema)

        with pytest.raises(StoreUnavailable, match="restored or made anew while in use"):
            store.new()
        with pytest.raises(StoreUnusable, match=r"copy of a store.*dispatcher restore"):
            store.new()
    with pytest.raises(StoreUnusable, match=r"copy of a store.*dispatcher restore"):
        opened(url, state_dir)
    restored(url, state_dir)
    with closing(opened(url, state_dir).raw) as raw:
        assert OneByOne(raw).new() > first


def test_a_store_of_before_the_number_of_its_table_is_no_copy(
    postgres: Postgres, url: str, state_dir: Path
) -> None:
    opened(url, state_dir).raw.close()
    postgres.sql("DELETE FROM dispatcher.meta WHERE key = 'table'")

    opened(url, state_dir).raw.close()
