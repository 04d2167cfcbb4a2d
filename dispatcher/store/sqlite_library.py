"""The version of the SQLite library, and the oldest safe one."""

from typing import Final

from pysqlite3 import dbapi2

from dispatcher.errors import StoreUnusable

#: The first SQLite without the bug that corrupts a database at a reset of its WAL.
OLDEST_LIBRARY: Final = (3, 51, 3)


def library_version() -> tuple[int, ...]:
    version: tuple[int, ...] = dbapi2.sqlite_version_info
    return version


def check_library(version: tuple[int, ...] = dbapi2.sqlite_version_info) -> None:
    """Raise `StoreUnusable` if the SQLite library is too old to be safe."""
    if version < OLDEST_LIBRARY:
        raise StoreUnusable(
            f"SQLite {'.'.join(map(str, version))} can corrupt a database in WAL mode; "
            "run: pip install 'pysqlite3>=0.6.1'"
        )
