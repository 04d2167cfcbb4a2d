"""The rows for which a tick may wait, locked by its first statements, as others lock them too.

A tick that waits in vain, as for a transaction that a person left open, is repeated at once without
the rows that others have locked. So are all later ones, until a look at all rows of this node finds
none. What they leave out is kept: events, requests, endings and confirmations of these runs.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import structlog

from dispatcher import wire
from dispatcher.backoff import Backoff
from dispatcher.daemon_report import LockReport
from dispatcher.execution import Held, Rows
from dispatcher.executor_api import Connected, Event
from dispatcher.supervisor.absence import Absence
from dispatcher.supervisor.failover import Failover
from dispatcher.supervisor.outage import STORE_RETRY
from dispatcher.supervisor.reaper import Reaper
from dispatcher.supervisor.turn import Request, Shared, Turn
from dispatcher.times import LONG_AGO, NEVER, Alarm, Instant

log = structlog.get_logger()

#: Events after which tasks and runs are settled, and events that change runs alone.
_ENDS = (wire.Exited, wire.StartFailed)
_CHANGES = (wire.Started, wire.Changed, wire.Notice)

#: Seconds for which others may lock a row before that is reported.
PATIENCE = 1.0

#: Tasks that such a report names.
MOST_NAMED = 20


class Locking:
    """Locks the rows of reports, messages and renewals."""

    def __init__(
        self, shared: Shared, reaper: Reaper, absence: Absence, failover: Failover
    ) -> None:
        self._store, self._memory = shared.store, shared.memory
        self._reaper = reaper
        self._absence = absence
        self._failover = failover
        self._look = Alarm(NEVER)
        """For the next look at all rows of this node; never while ticks wait for rows."""
        self._looks = Backoff(*STORE_RETRY)
        self._passing_since: Instant | None = None
        self._reported: Held | None = None

    @property
    def due(self) -> Instant:
        """When to look again at what others have locked."""
        return self._look.at

    def pass_over(self) -> None:
        """Wait for no row until others have locked none of this node's."""
        self._looks.reset()
        self._look.set(LONG_AGO)

    def lock(
        self, turn: Turn, *, requests: Iterable[Request] = (), events: Sequence[Event] = ()
    ) -> None:
        """Lock what these write, and all open runs of this node if any duty may renew them.

        A greeting's also wait for this node's own claims whose commits had no answer.
        """
        node = self._memory.settings.node_id
        renewals = self._reaper.may_spare(turn.at) or self._absence.confirms(turn.at)
        renewals |= self._failover.spares or any(isinstance(event, wire.Door) for event in events)
        greets = any(isinstance(event, Connected) for event in events)
        ends = {event.uid for event in events if isinstance(event, _ENDS)}
        ended = Rows(runs=ends, node=node if greets else None)
        changed = Rows(
            tasks={request.message.task_id for request in requests},
            runs={event.uid for event in events if isinstance(event, _CHANGES)},
            node=node if renewals else None,
        )
        if self._look.at < NEVER:
            looks = greets or renewals or self._look.is_due(turn.at)
            runs = {*ends, *changed.runs}
            wanted = Rows(tasks=changed.tasks, runs=runs, node=node if looks else None)
            self._lock_free(turn, wanted, greets=greets)
        # The order matters where there are two: one row alone is locked by its change.
        elif ended or renewals or len(changed.tasks) + len(changed.runs) > 1:
            self._store.lock_rows(ended, changed)

    def _lock_free(self, turn: Turn, wanted: Rows, *, greets: bool) -> None:
        """Lock what others have not locked, and let the turn leave out the rest."""
        node, memory = self._memory.settings.node_id, self._memory
        held = self._store.lock_free(wanted, node=node)
        if wanted.node is None:
            held = _added(memory.held, held, wanted)
        turn.held = held
        turn.claims_blocked |= held.node
        if not greets and memory.uncompared - held.tasks.keys():
            turn.claims_blocked = True
            turn.after(memory.uncompared.clear)
            turn.after(self._failover.reconcile)
        since = turn.at if self._passing_since is None else self._passing_since
        if held and held != self._reported and turn.at >= since + PATIENCE:
            holder = self._store.lock_holder(held, node=node)
            turn.after(partial(self._report, held, holder))
        turn.after(partial(self._remember, held, since, turn.at, looked=wanted.node is not None))

    def _remember(self, held: Held, since: Instant, at: Instant, *, looked: bool) -> None:
        self._memory.held, self._passing_since = held, since
        if not looked:
            return
        if held:
            self._look.set(at + self._looks.grow())
            return
        self._look.set(NEVER)
        self._passing_since = self._memory.locked = None
        if self._reported is not None:
            self._reported = None
            log.info("rows.unlocked", waited_s=round(at - since, 3))

    def _report(self, held: Held, holder: str | None) -> None:
        tasks = sorted({*held.tasks.values()})
        self._reported = held
        self._memory.locked = LockReport(
            holder=holder, tasks=tuple(tasks[:MOST_NAMED]), count=len(tasks), node_row=held.node
        )
        log.warning("rows.locked", reason=self._memory.locked.describe())


def _added(before: Held, found: Held, wanted: Rows) -> Held:
    """Return what was found among the wanted rows, and what others had locked before elsewhere.

    A run counts as one that cannot be confirmed until all rows of the node are looked at.
    """
    elsewhere = {
        uid: task_id
        for uid, task_id in before.tasks.items()
        if uid not in wanted.runs and task_id not in wanted.tasks
    }
    return Held(tasks={**elsewhere, **found.tasks}, runs=before.runs | found.runs, node=found.node)
