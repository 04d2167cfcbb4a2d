"""Reads facts about a server and its database, for `doctor`. Changes nothing."""

from collections.abc import Mapping
from contextlib import closing
from ipaddress import ip_address
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from dispatcher.store.engine import transaction
from dispatcher.store.postgresql import PostgresqlEngine
from dispatcher.store.server import DatabaseServer, Session
from dispatcher.store.shared import stores
from dispatcher.times import StoreTime

#: Settings that change what the store promises, or how it keeps up.
SETTINGS: Final = (
    *("fsync", "full_page_writes", "synchronous_commit", "autovacuum", "track_counts"),
    *("max_connections", "superuser_reserved_connections", "idle_session_timeout"),
    "transaction_timeout",
)

_SERVER: Final = """
SELECT current_setting('server_version'), current_user,
    COALESCE(NOT (inet_client_addr() <<= '127.0.0.0/8' OR inet_client_addr() = '::1'), FALSE),
    EXISTS (SELECT 1 FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl)
        OR EXISTS (SELECT 1 FROM pg_stat_gssapi WHERE pid = pg_backend_pid() AND encrypted),
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    pg_notification_queue_usage()
"""

_SETTINGS: Final = """
SELECT name, setting FROM pg_settings WHERE name = ANY (string_to_array(:names, ' '))
"""

# What a daemon needs, and this role may not do. Nobody changes an event.
_DENIED: Final = """
SELECT lower(action) || ' ' || relname
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace,
    unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS one (action, place)
WHERE nspname = :schema AND relkind = 'r' AND NOT has_table_privilege(pg_class.oid, action)
    AND NOT (relname = 'events' AND action = 'UPDATE')
ORDER BY relname, place
"""

#: Functions that show the server's timeline. Everybody may execute them unless that was revoked.
TIMELINE: Final = ("pg_current_wal_lsn()", "pg_walfile_name(pg_lsn)")

_DENIED_FUNCTIONS: Final = """
SELECT 'execute ' || one FROM unnest(string_to_array(:names, ' ')) AS of (one)
WHERE to_regprocedure(one) IS NOT NULL AND NOT has_function_privilege(one, 'EXECUTE')
"""

_OWNER: Final = """
SELECT pg_has_role(nspowner, 'USAGE'), pg_get_userbyid(nspowner)
FROM pg_namespace WHERE nspname = :schema
"""

# Whatever holds back the removal of dead rows in this database, oldest first. Every role may see
# who it is, but only its own sessions' times: then `seconds` is NULL.
_HOLDERS: Final = """
SELECT kind, name, age, seconds FROM (
    SELECT CASE backend_type WHEN 'walsender' THEN 'standby' ELSE 'session' END AS kind,
        CAST(pid AS TEXT) || ' (' || concat_ws(', ', usename, nullif(application_name, ''),
            state) || ')' AS name,
        greatest(age(backend_xmin), age(backend_xid)) AS age,
        CAST(extract(epoch FROM clock_timestamp() - xact_start) AS DOUBLE PRECISION) AS seconds
    FROM pg_stat_activity
    WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()
        AND (datname = current_database() OR backend_type = 'walsender')
        AND backend_type IS DISTINCT FROM 'autovacuum worker'
    UNION ALL
    SELECT 'prepared transaction', gid, age(transaction),
        CAST(extract(epoch FROM clock_timestamp() - prepared) AS DOUBLE PRECISION)
    FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL
    SELECT 'replication slot', slot_name, age(xmin), NULL
    FROM pg_replication_slots WHERE xmin IS NOT NULL
) AS holder ORDER BY age DESC
"""

# Who may hold back the queue of notifications: whoever listens, in any database, reads it only
# between transactions, and nobody can see who listens. Each transaction has such a lock.
_OLDEST_TRANSACTION: Final = """
SELECT CAST(pid AS TEXT) || ' (' || concat_ws(', ', usename, nullif(application_name, ''),
        state) || ')',
    CAST(extract(epoch FROM clock_timestamp() - xact_start) AS DOUBLE PRECISION)
FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE locktype = 'virtualxid' AND granted AND mode = 'ExclusiveLock' AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'
ORDER BY xact_start NULLS LAST, pid LIMIT 1
"""

# Who has had a lock on rows of the schema's tables, oldest first; `seconds` as above.
_LOCKERS: Final = """
SELECT name, tables, seconds FROM (
    SELECT CAST(pid AS TEXT) || ' (' || concat_ws(', ', usename, nullif(application_name, ''),
            state) || ')' AS name,
        (SELECT string_agg(DISTINCT relname, ', ' ORDER BY relname)
            FROM pg_locks JOIN pg_class ON pg_class.oid = relation
            WHERE pg_locks.pid = pg_stat_activity.pid AND granted AND mode <> 'AccessShareLock'
                AND database = datid AND relkind = 'r'
                AND relnamespace = to_regnamespace(quote_ident(:schema))) AS tables,
        CAST(extract(epoch FROM clock_timestamp() - xact_start) AS DOUBLE PRECISION) AS seconds
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'
) AS locker WHERE tables IS NOT NULL ORDER BY seconds DESC NULLS LAST LIMIT 9
"""

_DEAD: Final = """
SELECT relname, n_dead_tup, n_live_tup FROM pg_stat_user_tables
WHERE schemaname = :schema ORDER BY n_dead_tup DESC LIMIT 1
"""


class Holder(Struct, frozen=True, kw_only=True):
    """Who holds a snapshot, or a transaction open, so that no later dead row can be removed."""

    kind: str
    """session, standby, prepared transaction or replication slot."""
    name: str
    age: int
    """Transactions that began since."""
    seconds: float | None
    """Since when; None: this role may not see that."""


class Locker(Struct, frozen=True, kw_only=True):
    """A session with locks on rows of the store, or on whole tables."""

    name: str
    tables: str
    seconds: float | None
    """How long its transaction has been open; None: this role may not see that."""


class ServerFacts(Struct, frozen=True, kw_only=True):
    version: str
    role: str
    others: tuple[str, ...]
    """Other schemas of the database that hold stores, as far as this role may see them."""
    owner: str | None
    """Of the schema; None if that does not exist."""
    is_owner: bool
    denied: tuple[str, ...]
    """What a daemon needs and this role may not do, as "update tasks"."""
    is_pooled: bool
    """Whether a pooler is in between."""
    is_distant: bool
    """Whether the server, or the pooler, is on another host."""
    is_encrypted: bool
    connections: int
    settings: Mapping[str, str]
    now: StoreTime
    took: float
    """Seconds in which the clock was read."""
    holders: tuple[Holder, ...]
    lockers: tuple[Locker, ...]
    dead: tuple[str, int, int] | None
    """The table with the most dead rows, their number, and that of its other rows."""
    queue: float
    """Which part of the room for notifications is in use."""
    oldest: tuple[str, float | None] | None
    """The session in the oldest transaction, and its seconds; None: this role may not see them."""


def read(server: DatabaseServer) -> ServerFacts:
    """Read the facts in one snapshot. Raises `StoreUnavailable` and `StoreUnusable`."""
    with closing(PostgresqlEngine(server)) as engine, transaction(engine, write=False):
        facts = _read(engine, server.schema)
        return _corrected(facts, engine.session) if engine.session.is_pooled else facts


def _corrected(facts: ServerFacts, session: Session) -> ServerFacts:
    """Return the facts with the connection to the pooler: the server sees that from it."""
    address = session.info.hostaddr
    return replace(
        facts,
        is_pooled=True,
        is_distant=bool(address) and not ip_address(address).is_loopback,
        is_encrypted=session.pgconn.ssl_in_use,
    )


def _read(engine: PostgresqlEngine, schema: str) -> ServerFacts:
    ((version, role, is_distant, is_encrypted, connections, queue),) = engine.rows(_SERVER)
    owners: list[tuple[Any, ...]] = engine.rows(_OWNER, {"schema": schema})
    is_owner, owner = owners[0] if owners else (False, None)
    dead = engine.rows(_DEAD, {"schema": schema})
    oldest = engine.rows(_OLDEST_TRANSACTION)
    denied = engine.rows(_DENIED_FUNCTIONS, {"names": " ".join(TIMELINE)})
    denied += engine.rows(_DENIED, {"schema": schema})
    reading = engine.reading()
    return ServerFacts(
        version=version,
        role=role,
        others=tuple(one for one in stores(engine) if one != schema),
        owner=owner,
        is_owner=is_owner,
        denied=tuple(text for (text,) in denied),
        is_pooled=False,
        is_distant=is_distant,
        is_encrypted=is_encrypted,
        connections=connections,
        settings=dict(engine.rows(_SETTINGS, {"names": " ".join(SETTINGS)})),
        now=reading.time,
        took=reading.took,
        holders=tuple(
            Holder(kind=kind, name=name, age=age, seconds=seconds)
            for kind, name, age, seconds in engine.rows(_HOLDERS)
        ),
        lockers=tuple(
            Locker(name=name, tables=tables, seconds=seconds)
            for name, tables, seconds in engine.rows(_LOCKERS, {"schema": schema})
        ),
        dead=dead[0] if dead else None,
        queue=queue,
        oldest=oldest[0] if oldest else None,
    )
