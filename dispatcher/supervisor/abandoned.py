"""Settles local claims that are over: for the daemon, and for commands while none runs.

A local claim has no process to wait for, so its end settles it at once. Nor have the claims of a
node whose host is off, for which a person vouches.
"""

import random
from collections.abc import Sequence

from dispatcher import policy
from dispatcher.execution import OpenRun, Rows, Settlement
from dispatcher.store.api import SupervisorStore
from dispatcher.times import StoreTime

#: Claims settled in one transaction. Bounds how long a beat waits for its answer.
SETTLE_BATCH = 100


def settle_abandoned(
    store: SupervisorStore, *, expired: bool = True, rng: random.Random, now: StoreTime
) -> list[tuple[OpenRun, Settlement]]:
    """Settle at most `SETTLE_BATCH` runs of `SupervisorStore.abandoned`, and return them."""
    runs = store.abandoned(limit=SETTLE_BATCH, expired=expired, now=now)
    return _settle(store, runs, rng=rng, now=now)


def settle_of_node(
    store: SupervisorStore, node_id: str, *, rng: random.Random, now: StoreTime
) -> int:
    """Settle all open runs of a node of which nothing lives; return how many there were."""
    store.lock_rows(Rows(node=node_id))
    return len(_settle(store, store.open_runs(node_id), rng=rng, now=now))


def _settle(
    store: SupervisorStore, runs: Sequence[OpenRun], *, rng: random.Random, now: StoreTime
) -> list[tuple[OpenRun, Settlement]]:
    taken = [(run, policy.settle(run, None, now=now, ended_at=now, rng=rng)) for run in runs]
    if taken:
        store.settle([settlement for _, settlement in taken], now=now)
    return taken
