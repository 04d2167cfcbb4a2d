"""What follows once a replica has taken over a shared store's server, or its clock was set.

A replica may lack the last commits. So a daemon compares the runs of its executor with the store
anew (`Transactor`), ends those that the store does not know, and records in its row that it has:
nobody claims before all nodes have. Renewals may be forgotten too, or be wrong by a step of the
clock: each lease of this node is renewed once, and nobody takes over for a while.
"""

import math
from functools import partial

import structlog

from dispatcher.history import History
from dispatcher.supervisor.transactor import FailedOver
from dispatcher.supervisor.turn import Shared, Turn
from dispatcher.supervisor.worker_recorder import EVER

log = structlog.get_logger()


class Failover:
    """This node's part in a failover. On an embedded store it does nothing."""

    def __init__(self, shared: Shared) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._spared: History | None = None
        """The history in which this node's leases are current; None: the daemon has just begun."""
        self._reconciled: History | None = None
        """The history that this node's row names."""

    @property
    def reconciled_timeline(self) -> int:
        """The timeline with whose store the runs were compared last; 0: with none."""
        return 0 if self._reconciled is None else self._reconciled.timeline

    def reconcile(self, error: Exception | None = None) -> None:
        """Compare store and executor anew: it is unknown which of our commits the store has."""
        self._memory.hello = None
        self._executor.reconnect()
        if isinstance(error, FailedOver):
            log.warning("store.failed_over", timeline=self._store.history.timeline)
        else:
            log.warning("store.reconciling")

    @property
    def spares(self) -> bool:
        """Whether `spare_leases` renews leases in this turn."""
        stepped = self._store.server_step() != 0
        return stepped or self._spared not in (None, self._store.history)

    def spare_leases(self, turn: Turn) -> None:
        """Renew all leases of this node after a failover, and after a step of the server's clock.

        Such a step also postpones all takeovers, since it moves their times.
        """
        history, step_ms = self._store.history, self._store.server_step()
        if step_ms:
            self._store.postpone_takeovers(now=turn.now)
            turn.after(self._store.accept_server_step)
            turn.after(partial(log.warning, "store.clock_stepped", gap_ms=step_ms))
        if self.spares:
            node, but = self._memory.settings.node_id, turn.held.tasks.keys()
            self._store.renew_short(node, gap_ms=EVER, but=but, now=turn.now)
            turn.gap = math.inf
        turn.after(partial(self._remember_spared, history))

    def record_reconciled(self, turn: Turn) -> None:
        """Record, once no run lives here that the store does not know, that this is so."""
        history = self._store.history
        if not history.timeline or self._reconciled == history or self._memory.surplus:
            return
        if self._memory.is_served_by(self._executor) and not turn.held.node:
            self._store.record_reconciled(self._memory.settings.node_id)
            turn.again = True  # claims may have waited for it
            turn.after(partial(self._remember_reconciled, history))

    def await_nodes(self, turn: Turn) -> None:
        """Claim nothing while workers of forgotten claims may live."""
        postponed = self._store.postponed(now=turn.now)
        turn.claims_blocked |= postponed is not None
        why = None if postponed is None else postponed.describe(turn.now)
        if (why is None) != (self._memory.claims_postponed is None):
            turn.after(partial(_log, why))
        turn.after(partial(self._remember_postponed, why))

    def _remember_spared(self, history: History) -> None:
        self._spared = history

    def _remember_reconciled(self, history: History) -> None:
        self._reconciled = history

    def _remember_postponed(self, why: str | None) -> None:
        self._memory.claims_postponed = why


def _log(why: str | None) -> None:
    if why is None:
        log.info("claims.resumed")
    else:
        log.warning("claims.postponed", reason=why)
