"""Claims: finds ready tasks, makes locks, run uids and fences, and opens the runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from dispatcher.execution import Claim, Claims
from dispatcher.handover import NOTHING, Previous
from dispatcher.named_limits import Rule
from dispatcher.store import moves
from dispatcher.store.engine import Engine, Row, Values
from dispatcher.store.rows import Ready, ready_from
from dispatcher.store.statements import claims as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode, RunUid

if TYPE_CHECKING:
    from dispatcher.limit_room import Room
    from dispatcher.store.breakers import Changed

#: Tasks with a damaged row that one call holds, which takes about 20 ms. One damaged environment
#: may be that of very many tasks.
MOST_DAMAGED: Final = 100

#: Fields of a claim that are made for it.
_MINTED: Final = ("lock", "attempt", "fence", "lease_expires_at", "output_path")

#: Fields of a claim that are its task's.
_SHARED: Final = {*Claim.__struct_fields__} & {*Ready.__struct_fields__} - {*_MINTED, "kill_mode"}


def secret() -> str:
    """Return 128 random bits in hex: `secrets` would take 10 ms to import."""
    return os.urandom(16).hex()


class Search:
    """Finds the next ready tasks of a queue that a node with some labels may claim."""

    last: str | None = None
    """The last lane that it looked at; None: there is none behind it."""
    is_less = False
    """Whether others have locked or claimed some of them meanwhile."""

    def __init__(
        self,
        engine: Engine,
        values: Values,
        labels: Mapping[str, str],
        after: str = "",
        *,
        lock_room: Callable[[Collection[str]], Room],
    ) -> None:
        """Look at some lanes behind `after`, if the queue has any. `values` are those of `READY`.

        The labels, lanes and limits (`lock_room`) cost nothing where a queue has none.
        """
        self._engine, self._values, self._labels, self._after = engine, values, labels, after
        self._lock_room = lock_room

    def __call__(self) -> Sequence[Row]:
        """Return rows of `Ready`, locked, in their order."""
        if rows := self._engine.rows(sql.READY, self._values):
            return rows
        from dispatcher.store import lanes  # noqa: PLC0415 - few queues have any

        found = lanes.lock_next(
            self._engine, self._values, self._labels, self._after, self._lock_room
        )
        self.last, self.is_less = found.last, found.is_less
        return found.rows


class Gate:
    """The limits that one call claims with; nothing where none are taken."""

    def __init__(
        self,
        engine: Engine,
        rules: Mapping[str, Rule],
        *,
        who: str,
        changed: Changed,
        waits: bool = False,
        now: StoreTime,
    ) -> None:
        """Make it. `changed` is told what is closed or opened; `waits`: for others' claims."""
        self._engine, self._rules, self._now = engine, rules, now
        self._who, self._changed, self._waits = who, changed, waits
        self._probes: tuple[str, ...] = ()
        self.busy = False
        """Whether others were claiming with some of them."""
        self.opens_at: StoreTime | None = None
        """When one of them may have more room, by itself."""

    def lock_room(self, names: Collection[str]) -> Room:
        """Lock limits, and return their room."""
        from dispatcher.store import limits  # noqa: PLC0415 - few tasks take limits

        room, busy, probes = limits.lock_room(
            self._engine,
            names,
            self._rules,
            who=self._who,
            changed=self._changed,
            waits=self._waits,
            now=self._now,
        )
        self.busy |= busy
        self._probes += probes
        times = (at for at in (self.opens_at, room.opens_at) if at is not None)
        self.opens_at = min(times, default=None)
        return room

    def begin_probes(self, claims: Iterable[Claim]) -> None:
        """Record which run is a probe, if one is."""
        for name in self._probes:
            from dispatcher.store import breakers  # noqa: PLC0415 - few queues have any

            for claim in claims:
                breakers.begin_probe(self._engine, name, claim.run_uid)

    def record_starts(self, tasks: Iterable[Ready]) -> None:
        """Count the starts of tasks, for the limits that they take."""
        if takes := [task.takes for task in tasks if task.takes]:
            from dispatcher.store import limits  # noqa: PLC0415 - few tasks take limits

            limits.record_starts(self._engine, takes, self._rules, self._now)


def claimable(
    engine: Engine, search: Callable[[], Sequence[Row]], *, who: str, now: StoreTime
) -> list[Ready] | None:
    """Return the ready tasks found; hold those with a damaged row first, so they hide none.

    Returns None once `MOST_DAMAGED` are held: the caller commits them and calls again.
    """
    left = MOST_DAMAGED
    while left:
        found = [ready_from(row) for row in search()]
        damaged = [
            {"id": ready.task_id, "reason": damage} for ready, damage in found if damage is not None
        ][:left]
        if not damaged:
            return [ready for ready, _ in found]
        moves.make(engine, moves.HOLD, damaged, who=who, now=now)
        left -= len(damaged)
    return None


def claim(
    engine: Engine,
    tasks: Sequence[Ready],
    *,
    owner: str,
    output_dir: str,
    until: StoreTime | None,
    fences_after: int = 0,
    now: StoreTime,
) -> Claims:
    """Claim ready tasks for a node, and open their runs."""
    planned = [
        _planned(
            ready,
            output_dir,
            takeover_at=ready.takeover_at(until),
            fences_after=fences_after,
            now=now,
        )
        for ready in tasks
    ]
    return _opened(engine, planned, owner, now)


def claim_by_hand(
    engine: Engine,
    ready: Ready,
    *,
    owner: str,
    output_dir: str,
    lease_ttl_ms: int | None,
    fences_after: int = 0,
    now: StoreTime,
) -> Claim:
    """Claim a ready task outside of any node: takeover is at its lease's expiry."""
    if lease_ttl_ms is not None:
        ready = replace(ready, lease_ttl_ms=lease_ttl_ms)
    deadline_at = ready.limits.deadline(now)
    expiry = ready.expiry(now, deadline_at)
    planned = _planned(
        ready,
        output_dir,
        takeover_at=expiry,
        deadline_at=deadline_at,
        fences_after=fences_after,
        now=now,
    )
    (made,) = _opened(engine, [planned], owner, now)
    return made


def _planned(
    ready: Ready,
    output_dir: str,
    *,
    takeover_at: StoreTime | None,
    deadline_at: StoreTime | None = None,
    fences_after: int,
    now: StoreTime,
) -> tuple[Ready, dict[str, Any]]:
    """Return a ready task with the values of the run to open. The lease ends by the deadline."""
    uid = secret()
    return ready, {
        "id": ready.task_id,
        "task_id": ready.task_id,
        "uid": uid,
        "lock": secret(),
        "attempt": ready.attempts_used + 1,
        "fence": max(ready.fence, fences_after) + 1,
        "liveness": ready.liveness.value,
        "lease_ttl_ms": ready.lease_ttl_ms,
        "lease_expires_at": ready.expiry(now, deadline_at),
        "takeover_at": takeover_at,
        "deadline_at": deadline_at,
        "kill_grace_ms": ready.kill_grace_ms,
        "output_path": f"{output_dir}/{uid}.log",
    }


def _opened(
    engine: Engine,
    planned: Sequence[tuple[Ready, dict[str, Any]]],
    owner: str,
    now: StoreTime,
) -> Claims:
    """Move the tasks, open the runs, and return the claims."""
    if not planned:
        return Claims()
    repeated = [{"task_id": ready.task_id} for ready, _ in planned if ready.fence]
    before = _before(engine, repeated, owner)
    outputs = _earlier_outputs(engine, repeated, owner)
    parents = _parents(engine, [ready for ready, _ in planned if ready.blockers is not None])
    runs = [values for _, values in planned]
    moves.make_later(engine, moves.CLAIM, runs, who=owner, now=now)
    values = {"owner": owner, "now": now, "given": rows_of(runs)}
    ids = {uid: run_id for run_id, uid in engine.rows(sql.OPEN, values)}
    return Claims(
        Claim(
            run_id=ids[values["uid"]],
            run_uid=RunUid(values["uid"]),
            last_outcome=(known := before.get(ready.task_id, NOTHING)).outcome,
            previous=known.run,
            checkpoint=known.checkpoint,
            answer=known.answer,
            earlier_output_paths=tuple(outputs.get(ready.task_id, ())),
            kill_mode=ready.kill_mode or KillMode.TREE,
            reports_leftovers="leftovers" in ready.rules,
            output_to_journald="output" in ready.rules,
            parents=parents.get(ready.task_id),
            **{name: getattr(ready, name) for name in _SHARED},
            **{name: values[name] for name in _MINTED},
        )
        for ready, values in planned
    )


def _before(engine: Engine, tasks: Sequence[Values], owner: str) -> dict[int, Previous]:
    """Return, by task, what its last run left for the next one."""
    if not tasks:
        return {}
    from dispatcher.store import handovers  # noqa: PLC0415 - few commands claim

    return handovers.previous(engine, tasks, owner)


def _parents(engine: Engine, tasks: Sequence[Ready]) -> dict[int, str]:
    """Return the parents of tasks with their results, as JSON, by task."""
    if not tasks:
        return {}
    from dispatcher.store import dependencies  # noqa: PLC0415 - few tasks have parents

    return dependencies.results(engine, [ready.task_id for ready in tasks])


def _earlier_outputs(engine: Engine, tasks: Sequence[Values], owner: str) -> dict[int, list[str]]:
    """Return, by task, the outputs of this owner's runs that may be alive."""
    if not tasks:
        return {}
    outputs: dict[int, list[str]] = {}
    values = {"given": rows_of(tasks), "owner": owner}
    for task_id, path in engine.rows(sql.EARLIER_OUTPUTS, values):
        outputs.setdefault(task_id, []).append(path)
    return outputs
