"""A claim: finds ready tasks, makes lock, run uid and fence, and opens the run."""

from __future__ import annotations

import os
from dataclasses import replace

from dispatcher.execution import Claim
from dispatcher.model import Outcome
from dispatcher.store.engine import Engine, Values
from dispatcher.store.rows import Ready, ready_from
from dispatcher.store.statements import claims as sql
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode, RunUid


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
    last_outcome: Outcome | None = None
    earlier: tuple[str, ...] = ()
    if ready.fence:
        last_outcome = _last_outcome(engine, ready.task_id)
        earlier = _earlier_outputs(engine, ready.task_id, owner)
    uid, lock = secret(), secret()
    fence, attempt = ready.fence + 1, ready.attempts_used + 1
    output_path, expires_at = f"{output_dir}/{uid}.log", ready.expiry(now, deadline_at)
    values = {
        "task_id": ready.task_id,
        "uid": uid,
        "lock": lock,
        "attempt": attempt,
        "fence": fence,
        "owner": owner,
        "now": now,
        "lease_ttl_ms": ready.lease_ttl_ms,
        "lease_expires_at": expires_at,
        "takeover_at": takeover_at,
        "kill_grace_ms": ready.kill_grace_ms,
        "deadline_at": deadline_at,
        "output_path": output_path,
    }
    engine.change(sql.CLAIM, values)
    return Claim(
        task_id=ready.task_id,
        run_id=engine.insert(sql.OPEN, values),
        run_uid=RunUid(uid),
        fence=fence,
        lock=lock,
        attempt=attempt,
        queue=ready.queue,
        command=ready.command,
        payload=ready.payload,
        cwd=ready.cwd,
        env=ready.env,
        liveness=ready.liveness,
        lease_ttl_ms=ready.lease_ttl_ms,
        lease_expires_at=expires_at,
        output_path=output_path,
        last_outcome=last_outcome,
        earlier_output_paths=earlier,
        notify=ready.notify,
        limits=ready.limits,
        kill_grace_ms=ready.kill_grace_ms,
        kill_mode=ready.kill_mode or KillMode.TREE,
        profile=ready.profile,
        reports_leftovers="leftovers" in ready.rules,
        output_to_journald="output" in ready.rules,
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


def _last_outcome(engine: Engine, task_id: int) -> Outcome | None:
    rows = engine.rows(sql.LAST_OUTCOME, {"task_id": task_id})
    return Outcome(rows[0][0]) if rows and rows[0][0] else None


def _earlier_outputs(engine: Engine, task_id: int, owner: str) -> tuple[str, ...]:
    """Return the outputs of a task's runs here: their locks show whether one of them lives."""
    values = {"task_id": task_id, "owner": owner}
    return tuple(path for (path,) in engine.rows(sql.EARLIER_OUTPUTS, values))
