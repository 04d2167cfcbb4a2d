"""The rows for which a tick may wait, locked by its first statements, as others lock them too."""

from collections.abc import Iterable, Sequence

from dispatcher import wire
from dispatcher.execution import Rows
from dispatcher.executor_api import Connected, Event
from dispatcher.supervisor.absence import Absence
from dispatcher.supervisor.failover import Failover
from dispatcher.supervisor.reaper import Reaper
from dispatcher.supervisor.turn import Request, Shared, Turn

#: Events after which tasks and runs are settled, and events that change runs alone.
_ENDS = (wire.Exited, wire.StartFailed)
_CHANGES = (wire.Started, wire.Changed, wire.Notice)


class Locking:
    """Locks the rows of reports, messages and renewals."""

    def __init__(
        self, shared: Shared, reaper: Reaper, absence: Absence, failover: Failover
    ) -> None:
        self._store, self._memory = shared.store, shared.memory
        self._reaper = reaper
        self._absence = absence
        self._failover = failover

    def lock(
        self, turn: Turn, *, requests: Iterable[Request] = (), events: Sequence[Event] = ()
    ) -> None:
        """Lock what these write, and all open runs of this node if any duty may renew them.

        A greeting's also wait for this node's own claims whose commits had no answer.
        """
        node = self._memory.settings.node_id
        renewals = self._reaper.may_spare(turn.at) or self._absence.confirms(turn.at)
        renewals |= self._failover.spares or any(isinstance(event, wire.Door) for event in events)
        ends = {event.uid for event in events if isinstance(event, _ENDS)}
        ended = Rows(
            runs=ends,
            node=node if any(isinstance(event, Connected) for event in events) else None,
        )
        changed = Rows(
            tasks={request.message.task_id for request in requests},
            runs={event.uid for event in events if isinstance(event, _CHANGES)},
            node=node if renewals else None,
        )
        # The order matters where there are two: one row alone is locked by its change.
        if ended or renewals or len(changed.tasks) + len(changed.runs) > 1:
            self._store.lock_rows(ended, changed)
