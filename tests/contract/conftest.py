"""A store on every engine, fresh for each test."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NOW, OneByOne, new_task
from tests.contract.sqlite_files import opened
from tests.fresh_stores import EMPTY, put_fresh_database
from tests.pooler import Pooler
from tests.postgres import Postgres

#: Every engine runs every test of the contract; `helpers.EMBEDDED` marks the exceptions.
ENGINES = ["sqlite", "postgresql"]

#: Parts of it that also run on a server behind a pooler in transaction mode.
POOLED = ("submitting", "claiming", "running", "settling", "takeover", "operators", "transactions")

REMOVE = "DROP SCHEMA IF EXISTS dispatcher CASCADE"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on all engines, unless it says on which."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "url" in metafunc.fixturenames and not any("url" in mark.args[0] for mark in marks):
        is_part = metafunc.module.__name__.rpartition("test_")[2] in POOLED
        metafunc.parametrize("url", [*ENGINES, "pooler"] if is_part else ENGINES, indirect=True)


@pytest.fixture(scope="session")
def pooler(postgres: Postgres) -> Iterator[Pooler]:
    """A pooler before the server of this process."""
    with Pooler(postgres).running() as pooler:
        yield pooler


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store that is empty, or that the first who opens it makes."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/store/tasks.db"
    server: Postgres = request.getfixturevalue("postgres")
    server.sql(EMPTY)
    if request.param == "pooler":
        return str(request.getfixturevalue("pooler").url())
    return server.url()


@pytest.fixture
def unmade(request: pytest.FixtureRequest, url: str) -> Iterator[str]:
    """Return the URL of a store that nobody has made yet."""
    if url.startswith("sqlite:"):
        yield url
    else:
        server: Postgres = request.getfixturevalue("postgres")
        server.sql(REMOVE)
        yield url
        server.sql(REMOVE)


@pytest.fixture
def raw(url: str, tmp_path: Path) -> Iterator[SqlStore]:
    """Return an open store, for tests of transactions."""
    if url.startswith("sqlite:"):
        put_fresh_database(Path(url.removeprefix("sqlite://")))
    store = open_store(url, state_dir=tmp_path / "state", patience=10)
    assert isinstance(store, SqlStore)
    yield store
    store.close()


@pytest.fixture
def store(raw: SqlStore) -> OneByOne:
    """Return an open store, each of whose calls is a transaction."""
    return OneByOne(raw)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database that holds one task and that nobody has open."""
    path = tmp_path / "store" / "tasks.db"
    with closing(opened(path)) as store, store.transaction():
        store.submit([new_task()], now=NOW)
    return path
