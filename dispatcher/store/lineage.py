"""Records which stores a restored store replaced, so that it never repeats their ids and fences."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Final

from dispatcher.store.engine import Engine, Row

#: The store's identity, and those of its predecessors.
LINEAGE: Final = "SELECT value FROM meta WHERE key IN ('store_id', 'predecessors')"

_WRITE: Final = """
INSERT INTO meta (key, value) VALUES ('store_id', :identity), ('predecessors', :predecessors)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""


def lineage(rows: Iterable[Row]) -> frozenset[str]:
    """Return the identities in rows of `LINEAGE`."""
    return frozenset(" ".join(value for (value,) in rows).split())


def record_successor(engine: Engine, predecessors: Iterable[str]) -> str:
    """Make a store the successor of others, in an open transaction; return its new identity."""
    identity = str(uuid.uuid4())
    named = " ".join(sorted(predecessors))
    engine.change(_WRITE, {"identity": identity, "predecessors": named})
    return identity
