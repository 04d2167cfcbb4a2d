"""The tasks of hooks: submitted in the transaction of what happened, before its commit."""

from collections.abc import Collection

from dispatcher.hooks import Happened
from dispatcher.store.engine import Engine
from dispatcher.store.rows import value_from
from dispatcher.store.statements import hooks as sql
from dispatcher.store.statements.given import rows_of


def happened(engine: Engine, event_ids: Collection[int]) -> list[Happened]:
    """Return events of this transaction, in their order, but for those of hooks' own tasks."""
    rows = [{"id": event_id} for event_id in event_ids]
    return [
        value_from(Happened, row) for row in engine.rows(sql.HAPPENED, {"given": rows_of(rows)})
    ]
