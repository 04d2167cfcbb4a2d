"""Settles local claims that are over: for the daemon, and for commands while none runs.

A local claim has no process to wait for, so its end settles it at once.
"""

import random

from dispatcher import policy
from dispatcher.execution import OpenRun, Settlement
from dispatcher.store.api import SupervisorStore
from dispatcher.times import StoreTime

#: Claims settled in one transaction. Bounds how long a beat waits for its answer.
SETTLE_BATCH = 100


def settle_abandoned(
    store: SupervisorStore, *, rng: random.Random, now: StoreTime
) -> list[tuple[OpenRun, Settlement]]:
    """Settle at most `SETTLE_BATCH` runs of `SupervisorStore.abandoned`, and return them."""
    runs = store.abandoned(limit=SETTLE_BATCH, now=now)
    taken = [(run, policy.settle(run, None, now=now, ended_at=now, rng=rng)) for run in runs]
    if taken:
        store.settle([settlement for _, settlement in taken], now=now)
    return taken
