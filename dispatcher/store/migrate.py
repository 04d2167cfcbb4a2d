"""Creates and upgrades a database: its schema, version, identity, and the stores it replaced."""

import uuid
from collections.abc import Iterable, Sequence

from dispatcher.errors import StoreUnusable
from dispatcher.store.engine import Engine, Row, transaction
from dispatcher.store.migrations import MIGRATIONS
from dispatcher.store.schema import SCHEMA

#: The store's identity, and those of its predecessors.
LINEAGE = "SELECT value FROM meta WHERE key IN ('store_id', 'predecessors')"

_META = "SELECT key, value FROM meta WHERE key IN ('schema_version', 'store_id')"
_WRITE_META = """
INSERT INTO meta (key, value) VALUES (:key, :value)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""
_TABLES = """
SELECT EXISTS (SELECT 1 FROM tasks), EXISTS (SELECT 1 FROM runs), EXISTS (SELECT 1 FROM nodes),
    EXISTS (SELECT 1 FROM paused_queues)
"""


def create(engine: Engine, migrations: Sequence[str] | None = None) -> str:
    """Create the schema in an empty database; return the new store's identity.

    With `migrations`, go these steps: to an older schema, for tests of upgrades.
    """
    with transaction(engine, write=True, schema=True):
        return fill(engine, migrations)


def fill(engine: Engine, migrations: Sequence[str] | None = None) -> str:
    """Do the same in an open transaction."""
    identity = str(uuid.uuid4())
    version = len(MIGRATIONS if migrations is None else migrations)
    _apply(engine, [SCHEMA] if migrations is None else migrations)
    engine.change(_WRITE_META, {"key": "store_id", "value": identity})
    engine.change(_WRITE_META, {"key": "schema_version", "value": str(version)})
    return identity


def adopt(
    engine: Engine,
    migrations: Sequence[str] = MIGRATIONS,
    *,
    name: str = "the store",
    upgrade: bool = True,
) -> str:
    """Check an existing database, upgrade it if allowed, and return its identity.

    Raises `StoreUnusable` for an older schema without `upgrade`, a newer schema, a missing table,
    and a database that is not a store.
    """
    with transaction(engine, write=False):
        version, identity = _read_meta(engine, name, known=len(migrations))
        engine.rows(_TABLES)
    if version < len(migrations):
        if not upgrade:
            raise StoreUnusable(
                f"{name} was made by an older dispatcher (schema {version}, this one works with"
                f" {len(migrations)}); restart the daemon, or run: dispatcher migrate"
            )
        with transaction(engine, write=True, schema=True):
            # Another process may have upgraded it meanwhile.
            version, identity = _read_meta(engine, name, known=len(migrations))
            _apply(engine, migrations[version:])
            engine.change(_WRITE_META, {"key": "schema_version", "value": str(len(migrations))})
    return identity


def version_of(engine: Engine) -> tuple[int, str]:
    """Return a database's schema version, possibly a newer one, and its identity."""
    with transaction(engine, write=False):
        return _read_meta(engine, "the store", known=2**31)


def lineage(rows: Iterable[Row]) -> frozenset[str]:
    """Return the identities in rows of `LINEAGE`."""
    return frozenset(" ".join(value for (value,) in rows).split())


def record_successor(engine: Engine, predecessors: Iterable[str]) -> str:
    """Make a store the successor of others, in an open transaction; return its new identity.

    So it never repeats their ids and fences.
    """
    identity = str(uuid.uuid4())
    engine.change(_WRITE_META, {"key": "store_id", "value": identity})
    named = " ".join(sorted(predecessors))
    engine.change(_WRITE_META, {"key": "predecessors", "value": named})
    return identity


def _read_meta(engine: Engine, name: str, *, known: int) -> tuple[int, str]:
    meta: dict[str, str] = dict(engine.rows(_META))
    version, identity = meta.get("schema_version", ""), meta.get("store_id", "")
    if not (version.isascii() and version.isdigit() and identity):
        raise StoreUnusable(
            f"{name}: the table `meta` lost its version or identity ({meta}); "
            "restore the database from a backup"
        )
    if int(version) > known:
        raise StoreUnusable(
            f"{name} was made by a newer dispatcher (schema {version}, this one knows {known}); "
            "upgrade this dispatcher"
        )
    return int(version), identity


def _apply(engine: Engine, migrations: Sequence[str]) -> None:
    for text in migrations:
        for statement in text.format(row_id=engine.dialect.row_id).split(";"):
            if statement.strip():
                engine.change(statement)
