"""The store for claims that no node makes: those of shells and programs."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from dispatcher.events import EventKind
from dispatcher.execution import Claim
from dispatcher.model import NO_LABELS, TaskState
from dispatcher.named_limits import NO_RULES, Rule
from dispatcher.store import claims
from dispatcher.store.pruning import SqlPruner
from dispatcher.store.rows import Ready
from dispatcher.store.statements import claims as claims_sql
from dispatcher.times import StoreTime

#: The parameters of a claim that no node makes.
_NO_NODE: Final = {"node": "", "session": ""}


class SqlLocalClaims(SqlPruner):
    """The part of `OperatorStore` for local claims."""

    def claim_local(
        self,
        queue: str,
        *,
        owner: str,
        output_dir: str,
        task_id: int | None = None,
        lease_ttl_ms: int | None = None,
        labels: Mapping[str, str] = NO_LABELS,
        limits: Mapping[str, Rule] = NO_RULES,
        now: StoreTime,
    ) -> Claim | None:
        gate = claims.Gate(
            self.engine,
            limits,
            who=self._who,
            changed=partial(self._limit_changed, now),
            waits=True,
            now=now,
        )
        for ready in self._claimable(queue, task_id, labels, gate, now):
            self._histories.refuse_by_hand(ready, now)
            gate.record_starts([ready])
            claim = claims.claim_by_hand(
                self.engine,
                ready,
                owner=owner,
                output_dir=output_dir,
                lease_ttl_ms=lease_ttl_ms,
                fences_after=self.history.fences_after,
                now=now,
            )
            facts = {"before": TaskState.READY.value, "after": TaskState.RUNNING.value}
            self._record(
                EventKind.CLAIM, now=now, task_id=claim.task_id, fence=claim.fence, **facts
            )
            return claim
        return None

    def _claimable(
        self,
        queue: str,
        task_id: int | None,
        labels: Mapping[str, str],
        gate: claims.Gate,
        now: StoreTime,
    ) -> Sequence[Ready]:
        if task_id is not None:
            named = partial(self.engine.rows, claims_sql.READY_TASK, {"task_id": task_id})
            ready = claims.claimable(self.engine, named, who=self._who, now=now) or ()
            takes = {name for one in ready for name in one.takes}
            room = gate.lock_room(takes) if takes else None
            return [one for one in ready if room is None or room.admits(one.takes)]
        values, after = {"queue": queue, "limit": 1, **_NO_NODE}, ""
        while True:
            search = claims.Search(self.engine, values, labels, after, lock_room=gate.lock_room)
            found = claims.claimable(self.engine, search, who=self._who, now=now)
            if found or found is None or search.last is None:
                return found or ()
            after = search.last
