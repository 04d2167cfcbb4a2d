"""A claim: finds ready tasks, makes lock, run uid and fence, and opens the run."""

import os
from dataclasses import fields, replace
from typing import Any, Final

from dispatcher.execution import Claim
from dispatcher.model import Outcome
from dispatcher.store.engine import Engine, Values
from dispatcher.store.rows import Ready, ready_from
from dispatcher.store.statements import claims as sql
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode, RunUid

#: Fields of a claim that are its task's.
_SHARED: Final = {field.name for field in fields(Claim)} & {
    field.name for field in fields(Ready) if field.name not in {"fence", "kill_mode"}
}


def secret() -> str:
    """Return 128 random bits in hex: `secrets` would take 10 ms to import."""
    return os.urandom(16).hex()


def claimable(
    engine: Engine, statement: str, values: Values, kill_grace_ms: int | None = None
) -> list[Ready]:
    """Return ready tasks by a statement; hold those with a damaged row first, so they hide none."""
    while True:
        found = [ready_from(row, kill_grace_ms) for row in engine.rows(statement, values)]
        damaged = [
            {"id": ready.task_id, "reason": damage} for ready, damage in found if damage is not None
        ]
        if not damaged:
            return [ready for ready, _ in found]
        for held in damaged:
            engine.change(sql.HOLD, held)


def claim(
    engine: Engine,
    ready: Ready,
    *,
    owner: str,
    output_dir: str,
    takeover_at: StoreTime | None,
    deadline_at: StoreTime | None = None,
    now: StoreTime,
) -> Claim:
    """Claim a ready task for an owner, and open its run. The lease ends by the deadline."""
    last_outcome, earlier = _earlier_runs(engine, ready, owner)
    uid = secret()
    facts: dict[str, Any] = {
        **{name: getattr(ready, name) for name in _SHARED},
        "lock": secret(),
        "attempt": ready.attempts_used + 1,
        "fence": ready.fence + 1,
        "lease_expires_at": ready.expiry(now, deadline_at),
        "output_path": f"{output_dir}/{uid}.log",
    }
    values = {
        **facts,
        "uid": uid,
        "owner": owner,
        "now": now,
        "takeover_at": takeover_at,
        "deadline_at": deadline_at,
    }
    engine.change(sql.CLAIM, values)
    return Claim(
        run_id=engine.insert(sql.OPEN, values),
        run_uid=RunUid(uid),
        last_outcome=last_outcome,
        earlier_output_paths=earlier,
        kill_mode=ready.kill_mode or KillMode.TREE,
        reports_leftovers="leftovers" in ready.rules,
        output_to_journald="output" in ready.rules,
        **facts,
    )


def claim_by_hand(
    engine: Engine,
    ready: Ready,
    *,
    owner: str,
    output_dir: str,
    lease_ttl_ms: int | None,
    now: StoreTime,
) -> Claim:
    """Claim a ready task outside of any node: takeover is at its lease's expiry."""
    if lease_ttl_ms is not None:
        ready = replace(ready, lease_ttl_ms=lease_ttl_ms)
    deadline_at = ready.limits.deadline(now)
    return claim(
        engine,
        ready,
        owner=owner,
        output_dir=output_dir,
        takeover_at=ready.expiry(now, deadline_at),
        deadline_at=deadline_at,
        now=now,
    )


def begin_ending(engine: Engine, uid: RunUid, ending: Outcome, reason: str) -> bool:
    """Record an ending and replace the lock; False if there is one, or the run is closed."""
    values = {"uid": uid, "ending": ending.value, "reason": reason, "lock": secret()}
    return engine.change(sql.BEGIN_ENDING, values) > 0


def _earlier_runs(
    engine: Engine, ready: Ready, owner: str
) -> tuple[Outcome | None, tuple[str, ...]]:
    """Return the last run's outcome, and the outputs of this owner's runs that may be alive."""
    if not ready.fence:
        return None, ()
    values = {"task_id": ready.task_id, "owner": owner}
    last = engine.rows(sql.LAST_OUTCOME, values)
    outputs = engine.rows(sql.EARLIER_OUTPUTS, values)
    outcome = Outcome(last[0][0]) if last and last[0][0] else None
    return outcome, tuple(path for (path,) in outputs)
