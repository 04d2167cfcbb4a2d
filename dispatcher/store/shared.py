"""Opens a shared store: creates one that never existed, refuses one that was lost."""

from typing import Final

from dispatcher.errors import StoreUnusable
from dispatcher.store import migrate
from dispatcher.store.bell import Bell
from dispatcher.store.engine import transaction
from dispatcher.store.postgresql import PostgresqlEngine
from dispatcher.store.server import DatabaseServer
from dispatcher.store.server_clock import ServerClock
from dispatcher.store.sql import SqlStore
from dispatcher.times import HostClock

# From the tables of the catalogue: functions such as to_regclass answer from a cache, which may be
# older than the end of a wait for a lock.
_FOUND: Final = """
SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = :schema AND tablename = 'meta'),
    (SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = :schema)
"""


def open_shared(
    server: DatabaseServer,
    *,
    create: bool,
    upgrade: bool,
    remembered: str | None,
    clock: HostClock,
    bell: Bell,
) -> SqlStore:
    """Open the store in a schema of a server.

    With `create`, a missing one is created unless the state directory remembers one: `remembered`
    describes that. With `upgrade`, an older schema is upgraded. Raises as `open_store`.
    """
    engine = PostgresqlEngine(server)
    try:
        with transaction(engine, write=False):
            is_there, _ = _find(engine, server)
        if not is_there:
            _refuse_lost(server, remembered, create=create)
            _create(engine, server)
        identity = migrate.adopt(engine, name=server.name, upgrade=upgrade)
        return SqlStore(engine, identity, ServerClock(engine.reading, clock), bell)
    except BaseException:
        engine.close()
        raise


def _find(engine: PostgresqlEngine, server: DatabaseServer) -> tuple[bool, bool]:
    """Return whether the store exists, and whether its schema does.

    Raises `StoreUnusable` for a schema that this role may not use.
    """
    ((is_there, may_use),) = engine.rows(_FOUND, {"schema": server.schema})
    if may_use is False:
        raise StoreUnusable(
            f"{server.name}: this role may not use the schema; let its owner grant that"
            f" (GRANT USAGE ON SCHEMA {server.schema}), or let store.url name another role"
        )
    return is_there, may_use is not None


def _refuse_lost(server: DatabaseServer, remembered: str | None, *, create: bool) -> None:
    if remembered is not None:
        raise StoreUnusable(
            f"{server.name} holds no store, and {remembered}; "
            "restore it from a backup, or remove that file to start again without its tasks"
        )
    if not create:
        raise StoreUnusable(f"{server.name} holds no store; the first `dispatcher run` makes it")


def _create(engine: PostgresqlEngine, server: DatabaseServer) -> None:
    """Create the store, unless another process was faster."""
    with transaction(engine, write=True, schema=True):
        is_there, has_schema = _find(engine, server)
        if is_there:
            return
        if not has_schema:
            engine.change(f'CREATE SCHEMA "{server.schema}"')
        migrate.fill(engine)
