"""Opens a shared store: creates one that never existed, refuses one that was lost or copied."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Final

from dispatcher.errors import AlreadyHeld, StoreUnusable, StoreWithheld
from dispatcher.store import migrate, migrations
from dispatcher.store.engine import transaction
from dispatcher.store.postgresql import PostgresqlEngine
from dispatcher.store.schema import Made, ignored
from dispatcher.store.server import DatabaseServer
from dispatcher.store.server_bell import ServerBell
from dispatcher.store.server_clock import ServerClock
from dispatcher.store.sql import SqlStore
from dispatcher.times import HostClock

#: The rows of `meta` that name the schema in which the store was made, and its table `meta` there.
PLACE: Final = "place"
TABLE: Final = "table"

# From the tables of the catalogue: functions such as to_regclass answer from a cache, which may be
# older than the end of a wait for a lock.
_FOUND: Final = """
SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = :schema AND tablename = 'meta'),
    (SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = :schema),
    (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = :schema)
"""

_MAY_CREATE: Final = """
SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = :schema
"""

# No dump and no copy of a database has both numbers of the place. A dump that is restored over the
# tables, in their schema, has them: but its table has another number.
_PLACES: Final = """
SELECT (SELECT value FROM meta WHERE key = 'place'), (SELECT value FROM meta WHERE key = 'table'),
    CAST(pg_database.oid AS TEXT) || '.' || CAST(pg_namespace.oid AS TEXT),
    (SELECT CAST(pg_class.oid AS TEXT) FROM pg_class
        WHERE relnamespace = pg_namespace.oid AND relname = 'meta')
FROM pg_namespace, pg_database WHERE nspname = :schema AND datname = current_database()
"""

# The key of an advisory lock is in two halves. Names of sessions are visible to every role.
_OTHERS: Final = """
SELECT application_name, pid FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND objsubid = 1 AND pid <> pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (CAST(classid AS BIGINT) << 32) | CAST(objid AS BIGINT) = {in_use}
ORDER BY pid
"""

#: Sessions, or schemas, that a message names.
_MOST_NAMED: Final = 5

# By some of their tables: a role may see those of schemas that it may not use.
_STORES: Final = """
SELECT schemaname FROM pg_tables WHERE tablename IN ('meta', 'tasks', 'runs', 'paused_queues')
GROUP BY schemaname HAVING count(*) = 4 ORDER BY schemaname
"""


def open_shared(
    server: DatabaseServer,
    *,
    create: bool,
    upgrade: bool,
    remembered: str | None,
    clock: HostClock,
    made: Made = ignored,
) -> SqlStore:
    """Open the store in a schema of a server.

    With `create`, a missing one is created unless the state directory remembers one: `remembered`
    describes that. `made` is called then. Raises as `open_store`, and `AlreadyHeld` while others
    use an older schema that `upgrade` cannot upgrade under them.
    """
    engine = PostgresqlEngine(server)
    try:
        with transaction(engine, write=False):
            is_there, _, is_own = find(engine, server)
        if not is_there:
            with transaction(engine, write=False):
                others = stores(engine)
            _refuse_lost(server, remembered, others, create=create)
            _create(engine, server, partial(made, server.name, others))
        else:
            with transaction(engine, write=False):
                refuse_copy(engine, server)
        identity = migrate.adopt(
            engine,
            migrations.MIGRATIONS,
            name=server.name,
            upgrade=upgrade,
            allow=partial(_allow, engine, server, is_own is not False),
        )
        engine.prove = _prover(engine, server, identity)
        return SqlStore(engine, identity, ServerClock(engine.reading, clock), ServerBell(server))
    except BaseException:
        engine.close()
        raise


def version(server: DatabaseServer) -> int | None:
    """Return the schema's version of a shared store; None if there is no store."""
    with closing(PostgresqlEngine(server)) as engine:
        with transaction(engine, write=False):
            is_there, _, _ = find(engine, server)
        return migrate.version_of(engine)[0] if is_there else None


def find(engine: PostgresqlEngine, server: DatabaseServer) -> tuple[bool, bool, bool | None]:
    """Return whether the store exists, whether its schema does, and whether this role owns that.

    Raises `StoreWithheld` for a schema that this role may not use.
    """
    ((is_there, may_use, is_own),) = engine.rows(_FOUND, {"schema": server.schema})
    if may_use is False:
        raise StoreWithheld(f"{server.name}: this role may not use the schema; {server.granting}")
    return is_there, may_use is not None, is_own


def refuse_copy(engine: PostgresqlEngine, server: DatabaseServer) -> None:
    """Raise `StoreUnusable` for a store that was made elsewhere, in an open transaction."""
    ((made, table, here, table_here),) = engine.rows(_PLACES, {"schema": server.schema})
    if made != here or table not in (None, table_here):  # None: until an upgrade
        raise StoreUnusable(
            f"{server.name} is a copy of a store, restored or cloned, and repeats its ids and"
            " fences; once nothing uses it, make it a store of its own: dispatcher restore"
        )


def write_place(engine: PostgresqlEngine, server: DatabaseServer) -> None:
    """Record that the store was made here, in an open transaction."""
    ((_, _, here, table),) = engine.rows(_PLACES, {"schema": server.schema})
    migrate.write_meta(engine, PLACE, here)
    migrate.write_meta(engine, TABLE, table)


def _allow(engine: PostgresqlEngine, server: DatabaseServer, is_own: bool, *, alone: bool) -> None:
    if not is_own:
        raise StoreUnusable(
            f"{server.name} has to be upgraded, and only the owner of its schema may do that; let"
            " store.url name that role, and run: dispatcher migrate"
        )
    if alone:
        refuse_others(engine, server)


def refuse_others(engine: PostgresqlEngine, server: DatabaseServer) -> None:
    """Raise `AlreadyHeld` unless this session is the only one that uses the store.

    Until the end of the open transaction no other begins.
    """
    ((is_alone,),) = engine.rows(f"SELECT pg_try_advisory_xact_lock({server.in_use})")
    if is_alone:
        # Behind a pooler others share a lock while they are in a transaction.
        engine.change("LOCK TABLE meta IN ACCESS EXCLUSIVE MODE")
        return
    others = engine.rows(_OTHERS.format(in_use=server.in_use))
    named = [f"{name or 'a session without a name'} (server's pid {pid})" for name, pid in others]
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    raise AlreadyHeld(
        f"{server.name} is in use by {', '.join(named[:_MOST_NAMED]) or 'others'}{more};"
        " stop the daemons and commands of all hosts first"
    )


def stores(engine: PostgresqlEngine) -> tuple[str, ...]:
    """Return the schemas of this database that hold stores, in an open transaction."""
    return tuple(schema for (schema,) in engine.rows(_STORES))


def _refuse_lost(
    server: DatabaseServer, remembered: str | None, others: tuple[str, ...], *, create: bool
) -> None:
    more = ", …" if len(others) > _MOST_NAMED else ""
    listed = ", ".join(others[:_MOST_NAMED]) + more
    there = f"this database has stores in: {listed}" if others else "nor does another schema"
    if remembered is not None:
        raise StoreUnusable(
            f"{server.name} holds no store ({there}), and {remembered}; "
            "let store.url and store.schema name the store that this host used, restore it from a"
            " backup, or remove that file to start again without its tasks"
        )
    if not create:
        raise StoreUnusable(
            f"{server.name} holds no store ({there}); correct store.url or store.schema, or make a"
            " store here: `dispatcher run` or `dispatcher migrate`"
        )


def _create(engine: PostgresqlEngine, server: DatabaseServer, made: Callable[[], object]) -> None:
    """Create the store, unless another process was faster."""
    with transaction(engine, write=True, schema=True):
        is_there, has_schema, _ = find(engine, server)
        if is_there:
            return
        if not has_schema:
            engine.change(f'CREATE SCHEMA "{server.schema}"')
        elif engine.rows(_MAY_CREATE, {"schema": server.schema}) == [(False,)]:
            raise StoreWithheld(
                f"{server.name}: the schema has no store, and this role may not make one in it; let"
                " the schema's owner run `dispatcher migrate`, or grant this role CREATE on it"
            )
        migrate.fill(engine)
        write_place(engine, server)
    made()


def _prover(
    engine: PostgresqlEngine, server: DatabaseServer, identity: str
) -> Callable[[], object]:
    """Return what raises `StoreUnusable` in a session that finds another store, or a newer one."""

    def prove() -> None:
        known = len(migrations.MIGRATIONS)
        if migrate.refuse_newer(engine, server.name, known) != identity:
            raise StoreUnusable(
                f"{server.name} was replaced by another store while in use; stop all that use it,"
                " then start again"
            )
        refuse_copy(engine, server)

    return prove
