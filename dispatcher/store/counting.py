"""The counts that the database keeps, compared with the rows that they count."""

from collections.abc import Mapping

from dispatcher.store.engine import Engine
from dispatcher.store.statements import counts as sql


def wrong_counts(engine: Engine) -> Mapping[tuple[str, str], int]:
    """Return what `ReaderStore.wrong_counts` does. Reads every task and run."""
    return {(queue, state): missing for queue, state, missing in engine.rows(sql.WRONG)}


def mend_counts(engine: Engine) -> bool:
    """Correct the counts, in a transaction that writes; return whether any was wrong.

    On a server others may write meanwhile: one statement sees each of their changes both in the
    rows and in the counts, or in neither.
    """
    if not engine.rows(sql.WRONG):
        return False
    if not engine.dialect.shared:
        engine.change(sql.FORGET)
    engine.change(sql.MEND)
    return True
