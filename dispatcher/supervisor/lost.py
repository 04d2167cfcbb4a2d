"""Claims that another node has taken, as this one was silent too long, or cut off."""

from collections.abc import Iterable

import structlog

from dispatcher import wire
from dispatcher.supervisor.live_runs import LiveRun
from dispatcher.supervisor.turn import Shared
from dispatcher.wire import RunUid

log = structlog.get_logger()


class LostClaims:
    """Gives up runs whose claims are lost: nothing more of them is recorded.

    The methods are called after the commit of the transaction that found it out.
    """

    def __init__(self, shared: Shared) -> None:
        self._executor, self._memory = shared.executor, shared.memory

    def end(self, uids: Iterable[RunUid]) -> None:
        """End those of these runs that live here at once.

        Until they are gone nothing starts, but for unkillable ones, which may never be gone.
        """
        for uid in [*uids]:
            if (live := self._forget(uid)) is not None:
                if live.unkillable is None:
                    self._memory.surplus.add(uid)
                self._executor.send(wire.End(uid=uid, reason="lost", at_once=True))

    def gone(self, end: wire.Exited | wire.StartFailed) -> None:
        """Let the executor forget a run that is gone."""
        self._forget(end.uid)
        self._memory.surplus.discard(end.uid)
        if isinstance(end, wire.Exited):
            self._executor.send(wire.Forget(uid=end.uid))

    def _forget(self, uid: RunUid) -> LiveRun | None:
        """Return the run if it was held until now."""
        live = self._memory.live.pop(uid)
        if live is not None:
            log.warning("claim.lost", **live.ids())
        return live
