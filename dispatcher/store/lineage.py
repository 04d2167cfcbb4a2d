"""In whose place a store was restored: it goes on beyond the ids and fences that those gave."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Final

from dispatcher.store.engine import Engine, Row

#: The store's own identity, and those of its predecessors.
LINEAGE: Final = "SELECT value FROM meta WHERE key IN ('store_id', 'predecessors')"

_WRITE: Final = """
INSERT INTO meta (key, value) VALUES ('store_id', :identity), ('predecessors', :predecessors)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""


def lineage(rows: Iterable[Row]) -> frozenset[str]:
    """Return the stores that the rows of `LINEAGE` name."""
    return frozenset(" ".join(value for (value,) in rows).split())


def succeed(engine: Engine, predecessors: Iterable[str]) -> str:
    """Make a store, within a transaction, the successor of others; return its new identity."""
    identity = str(uuid.uuid4())
    named = " ".join(sorted(predecessors))
    engine.change(_WRITE, {"identity": identity, "predecessors": named})
    return identity
