"""Creates and upgrades a database: its schema, version, identity, and the stores it replaced."""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from dispatcher.errors import StoreUnusable
from dispatcher.store import migrations as steps
from dispatcher.store.engine import Engine, Row, transaction
from dispatcher.store.migrations import MIGRATIONS, Step

#: The store's identity, and those of its predecessors.
LINEAGE = "SELECT value FROM meta WHERE key IN ('store_id', 'predecessors')"

_META = "SELECT key, value FROM meta WHERE key IN ('schema_version', 'store_id', 'usable_since')"
_WRITE_META = """
INSERT INTO meta (key, value) VALUES (:key, :value)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""
_TABLES = """
SELECT EXISTS (SELECT 1 FROM tasks), EXISTS (SELECT 1 FROM runs), EXISTS (SELECT 1 FROM nodes),
    EXISTS (SELECT 1 FROM paused_queues)
"""

#: The type of a column of texts in a definition.
_TEXT: Final = re.compile(r"(?<=[a-z_] )TEXT\b")

#: The end of a statement; in the body of a trigger or function lines are indented, or begin END.
_END: Final = re.compile(r";(?!\n(?: |END))")


class Allow(Protocol):
    """Raises if an upgrade may not happen; `alone`: older dispatchers cannot work on after it."""

    def __call__(self, *, alone: bool) -> None: ...


def create(engine: Engine, migrations: Sequence[Step] | None = None) -> str:
    """Create the schema in an empty database; return the new store's identity.

    With `migrations`, go these steps: to an older schema, for tests of upgrades.
    """
    with transaction(engine, write=True, schema=True):
        return fill(engine, migrations)


def fill(engine: Engine, migrations: Sequence[Step] | None = None) -> str:
    """Do the same in an open transaction."""
    from dispatcher.store.tables import SCHEMA  # noqa: PLC0415 - for a new store alone

    identity = str(uuid.uuid4())
    fresh = [SCHEMA, engine.dialect.storage]
    _apply(engine, fresh if migrations is None else migrations)
    write_meta(engine, "store_id", identity)
    _record_version(engine, len(MIGRATIONS if migrations is None else migrations))
    return identity


def locked_already(*, alone: bool) -> None:
    """Do nothing: who upgrades an embedded database has locked it."""


def adopt(
    engine: Engine,
    migrations: Sequence[Step] = MIGRATIONS,
    *,
    name: str = "the store",
    upgrade: bool = True,
    allow: Allow = locked_already,
) -> str:
    """Check an existing database, upgrade it if allowed, and return its identity.

    `allow` is called in the transaction of an upgrade; what it raises prevents that.

    Raises `StoreUnusable` for an older schema without `upgrade`, a newer schema, a missing table,
    and a database that is not a store.
    """
    known = len(migrations)
    with transaction(engine, write=False):
        version, identity = _read_meta(engine, name, known=known)
        engine.rows(_TABLES)
    if version < known:
        if not upgrade:
            raise StoreUnusable(
                f"{name} was made by an older dispatcher (schema {version}, this one works with"
                f" {known}); restart the daemon, or run: dispatcher migrate"
            )
        _upgrade(engine, migrations, name, allow)
    return identity


def _upgrade(engine: Engine, migrations: Sequence[Step], name: str, allow: Allow) -> None:
    with transaction(engine, write=True, schema=True):
        # Another process may have upgraded it meanwhile.
        version, _ = _read_meta(engine, name, known=len(migrations))
        if version >= len(migrations):
            return
        if engine.dialect.shared and version < steps.ON_SERVERS:
            raise StoreUnusable(
                f"{name} has schema {version}, and no release has left one before"
                f" {steps.ON_SERVERS} on a server; let store.schema name another schema"
            )
        allow(alone=version < steps.usable_since(len(migrations)))
        _apply(engine, migrations[version:])
        _record_version(engine, len(migrations))


def version_of(engine: Engine) -> tuple[int, str]:
    """Return a database's schema version, possibly a newer one, and its identity."""
    with transaction(engine, write=False):
        return _read_meta(engine, "the store", known=2**31)


def refuse_newer(engine: Engine, name: str, known: int) -> str:
    """Return the store's identity, in an open transaction.

    Raises `StoreUnusable` for a schema with which dispatchers of the version `known` cannot work.
    """
    _, identity = _read_meta(engine, name, known=known)
    return identity


def is_newer(engine: Engine, known: int) -> bool:
    """Return whether dispatchers of the version `known` cannot work with a database."""
    with transaction(engine, write=False):
        return _is_beyond(dict(engine.rows(_META)), known)


def lineage(rows: Iterable[Row]) -> frozenset[str]:
    """Return the identities in rows of `LINEAGE`."""
    return frozenset(" ".join(value for (value,) in rows).split())


def record_successor(engine: Engine, predecessors: Iterable[str]) -> str:
    """Make a store the successor of others, in an open transaction; return its new identity.

    So it never repeats their ids and fences.
    """
    identity = str(uuid.uuid4())
    write_meta(engine, "store_id", identity)
    write_meta(engine, "predecessors", " ".join(sorted(predecessors)))
    return identity


def write_meta(engine: Engine, key: str, value: str) -> None:
    """Write a row of `meta`, in an open transaction."""
    engine.change(_WRITE_META, {"key": key, "value": value})


def _record_version(engine: Engine, version: int) -> None:
    write_meta(engine, "schema_version", str(version))
    write_meta(engine, "usable_since", str(steps.usable_since(version)))


def _read_meta(engine: Engine, name: str, *, known: int) -> tuple[int, str]:
    meta: dict[str, str] = dict(engine.rows(_META))
    version, identity = _number(meta, "schema_version"), meta.get("store_id", "")
    if version is None or not identity:
        raise StoreUnusable(
            f"{name}: the table `meta` lost its version or identity ({meta}); "
            "restore the database from a backup"
        )
    if version > known and _is_beyond(meta, known):
        raise StoreUnusable(
            f"{name} was made by a newer dispatcher (schema {version}, this one knows {known}); "
            "upgrade this dispatcher"
        )
    return version, identity


def _is_beyond(meta: Mapping[str, str], known: int) -> bool:
    """Return whether the oldest version that can work with a newer schema is newer, too."""
    since = _number(meta, "usable_since")
    return since is None or since > known


def _number(meta: Mapping[str, str], key: str) -> int | None:
    text = meta.get(key, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _apply(engine: Engine, migrations: Sequence[Step]) -> None:
    from dispatcher.store import counting_text  # noqa: PLC0415 - few commands make tables

    dialect = engine.dialect
    counting = counting_text.ON_SERVERS if dialect.shared else counting_text.EMBEDDED
    for step in migrations:
        text = step if isinstance(step, str) else step[dialect.shared]
        whole = text.format(row_id=dialect.row_id, counting=counting)
        for statement in _END.split(whole):
            if statement.strip():
                engine.change(_TEXT.sub(lambda _: dialect.text, statement))
