"""What one claim writes: lock, uid and fence are minted, the run is opened."""

from __future__ import annotations

import os
from dataclasses import replace

from dispatcher.execution import Claim
from dispatcher.model import Outcome
from dispatcher.store import statements
from dispatcher.store.engine import Engine
from dispatcher.store.rows import Ready
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode, RunUid


def secret() -> str:
    """Return 128 random bits in hex, as `secrets` does, without the 10 ms that its import takes."""
    return os.urandom(16).hex()


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
    """Claim a ready task for an owner, and open its run. No lease goes beyond its deadline."""
    last_outcome: Outcome | None = None
    earlier: tuple[str, ...] = ()
    if ready.fence:
        last_outcome = _last_outcome(engine, ready.task_id)
        earlier = _earlier_outputs(engine, ready.task_id, owner)
    uid, lock = secret(), secret()
    expires_at = ready.expiry(now, deadline_at)
    values = {
        "task_id": ready.task_id,
        "uid": uid,
        "lock": lock,
        "attempt": ready.attempts_used + 1,
        "fence": ready.fence + 1,
        "owner": owner,
        "now": now,
        "lease_ttl_ms": ready.lease_ttl_ms,
        "lease_expires_at": expires_at,
        "takeover_at": takeover_at,
        "kill_grace_ms": ready.kill_grace_ms,
        "deadline_at": deadline_at,
        "output_path": f"{output_dir}/{uid}.log",
    }
    engine.change(statements.CLAIM, values)
    return Claim(
        task_id=ready.task_id,
        run_id=engine.insert(statements.OPEN, values),
        run_uid=RunUid(uid),
        fence=ready.fence + 1,
        lock=lock,
        attempt=ready.attempts_used + 1,
        queue=ready.queue,
        command=ready.command,
        payload=ready.payload,
        cwd=ready.cwd,
        env=ready.env,
        liveness=ready.liveness,
        lease_ttl_ms=ready.lease_ttl_ms,
        lease_expires_at=expires_at,
        output_path=f"{output_dir}/{uid}.log",
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
    """Claim a ready task outside of any node: whose clock is the lease, within its deadline."""
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


def _last_outcome(engine: Engine, task_id: int) -> Outcome | None:
    rows = engine.rows(statements.LAST_OUTCOME, {"task_id": task_id})
    return Outcome(rows[0][0]) if rows and rows[0][0] else None


def _earlier_outputs(engine: Engine, task_id: int, owner: str) -> tuple[str, ...]:
    """Return the outputs of a task's runs here whose locks say whether one of them lives."""
    values = {"task_id": task_id, "owner": owner}
    return tuple(path for (path,) in engine.rows(statements.EARLIER_OUTPUTS, values))
