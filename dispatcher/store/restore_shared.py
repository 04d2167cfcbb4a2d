"""Makes a store that a server's tools restored or copied a store of its own.

It never repeats an id or a fence of the one it was copied from.
"""

from contextlib import closing
from typing import Final

from dispatcher.errors import StoreUnusable
from dispatcher.store import migrate
from dispatcher.store.engine import transaction
from dispatcher.store.failover import HistoryWatch
from dispatcher.store.migrate import LINEAGE, lineage, record_successor
from dispatcher.store.postgresql import PostgresqlEngine
from dispatcher.store.restore import ADVANCE_FENCES, COUNTS, Restored, leap
from dispatcher.store.server import DatabaseServer
from dispatcher.store.shared import find, refuse_others, write_place
from dispatcher.times import WallTime

# An identity column's sequence: what it gave last, or what a row has.
_LAST_ID: Final = """
SELECT greatest((SELECT COALESCE(max(id), 0) FROM {table}), COALESCE((
    SELECT last_value FROM pg_sequences WHERE schemaname = current_schema
        AND sequencename = '{table}_id_seq'), 0))
"""
_SET_LAST_ID: Final = """
SELECT setval(CAST(pg_get_serial_sequence('{table}', 'id') AS regclass), :last)
"""


def restore_shared(
    server: DatabaseServer, *, remembered: str | None, complete: bool, now: WallTime
) -> Restored:
    """Let the store in a schema take the place of the one that it was copied from.

    Ids and fences `leap`, it gets an identity of its own, and a history begins with it, unless it
    is `complete`: nothing was written after the copy. Raises `AlreadyHeld` while others use the
    store, `StoreUnusable` if there is none, or if the schema is another role's.
    """
    with closing(PostgresqlEngine(server)) as engine:
        with transaction(engine, write=True, schema=True):
            is_there, _, is_own = find(engine, server)
            if not is_there:
                raise StoreUnusable(
                    f"{server.name} holds no store; restore one there first, with pg_restore"
                )
            if not is_own:
                raise StoreUnusable(
                    f"{server.name}: only the owner of the schema may do this; let store.url name"
                    " that role"
                )
            refuse_others(engine, server)
            if not complete:
                _advance(engine, remembered, leap(now))
            write_place(engine, server)
            next_id = _last_id(engine, "tasks") + 1
            ((tasks, running),) = engine.rows(COUNTS)
        identity = migrate.adopt(engine, name=server.name)
    return Restored(identity=identity, tasks=tasks, running=running, next_id=next_id, kept=None)


def _advance(engine: PostgresqlEngine, remembered: str | None, by: int) -> None:
    worked = {remembered} if remembered is not None else set()
    record_successor(engine, lineage(engine.rows(LINEAGE)) | worked)
    engine.change(ADVANCE_FENCES, {"leap": by})
    for table in ("tasks", "runs"):
        last = _last_id(engine, table) + by
        engine.rows(_SET_LAST_ID.format(table=table), {"last": last})
    # Claims that the copy lacks may have workers on hosts that nobody stopped.
    HistoryWatch(engine).begin_restored(engine.reading().time)


def _last_id(engine: PostgresqlEngine, table: str) -> int:
    ((last,),) = engine.rows(_LAST_ID.format(table=table))
    return int(last)
