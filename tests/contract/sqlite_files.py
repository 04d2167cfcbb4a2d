"""SQLite files and what happens to them."""

import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pysqlite3 import dbapi2

from dispatcher.errors import CommitUnknown
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NOW, new_task


def opened(path: Path, *, patience: float = 0.0) -> SqlStore:
    """Open the store of a file; the state directory is next to it."""
    store = open_store(
        f"sqlite://{path}", state_dir=path.parent.parent / "state", patience=patience
    )
    assert isinstance(store, SqlStore)
    return store


def files(path: Path) -> dict[str, bytes]:
    """Return a database and the files next to it."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def meddle(path: Path, *statements: str) -> None:
    """Change a database behind the store's back."""
    with closing(dbapi2.connect(str(path), isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def replaced(path: Path) -> None:
    """Put another store's database in the place of an open one."""
    other = path.parent.parent / "other" / "store" / "tasks.db"
    opened(other).close()
    other.rename(path)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a disk that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def break_commit(store: SqlStore, path: Path) -> None:
    """Let one commit fail at its first write."""
    with file_size_limit(0), pytest.raises(CommitUnknown, match=r"tasks\.db"), store.transaction():
        store.submit([new_task()], now=NOW)
