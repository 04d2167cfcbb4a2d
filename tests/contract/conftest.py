"""A store on every engine, fresh for each test."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NOW, OneByOne, new_task
from tests.contract.sqlite_files import opened

#: Every engine runs every test of the contract.
ENGINES = ["sqlite"]


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store that nobody has opened yet."""
    return {"sqlite": f"sqlite://{tmp_path}/store/tasks.db"}[request.param]


@pytest.fixture
def raw(url: str, tmp_path: Path) -> Iterator[SqlStore]:
    """Return an open store, for tests of transactions."""
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
