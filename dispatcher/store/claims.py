"""What one claim writes: lock, uid and fence are minted, the run is opened."""

from __future__ import annotations

import os
from typing import NamedTuple

from dispatcher.model import Claim, Confirmation, Limits, Liveness, Outcome
from dispatcher.store import statements
from dispatcher.store.engine import Engine, Row
from dispatcher.store.values import command_from, limits_from, strings_from
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid


def secret() -> str:
    """Return 128 random bits in hex, as `secrets` does, without the 10 ms that its import takes."""
    return os.urandom(16).hex()


class Ready(NamedTuple):
    """A row of `statements.READY`."""

    task_id: int
    queue: str
    command: str
    payload: str | None
    cwd: str | None
    env: str
    liveness: str
    lease_ttl_ms: int
    attempts: int
    fence: int
    profile: str | None
    rules: str | None
    notify: int
    limits: Limits

    @classmethod
    def of(cls, row: Row) -> Ready:
        """Return a row by name."""
        return cls(*row[:13], limits=limits_from(row[13:]))  # type: ignore[misc]

    def takeover_at(self, confirmation: Confirmation | None) -> StoreTime | None:
        """Return from when on another node may take the claim; None: never."""
        if confirmation is None:
            return None
        return confirmation.takeover_at(self.limits.kill_grace_ms)


def claim(
    engine: Engine,
    ready: Ready,
    *,
    owner: str,
    output_dir: str,
    takeover_at: StoreTime | None,
    now: StoreTime,
) -> Claim:
    """Claim a ready task for an owner, and open its run."""
    last_outcome, last_output = (None, None)
    if ready.fence:
        last_outcome, last_output = _last_run(engine, ready.task_id, owner)
    uid, lock = secret(), secret()
    values = {
        "task_id": ready.task_id,
        "uid": uid,
        "lock": lock,
        "attempt": ready.attempts + 1,
        "fence": ready.fence + 1,
        "owner": owner,
        "now": now,
        "lease_ttl_ms": ready.lease_ttl_ms,
        "lease_expires_at": now + ready.lease_ttl_ms,
        "takeover_at": takeover_at,
        "output_path": f"{output_dir}/{uid}.log",
    }
    engine.change(statements.CLAIM, values)
    return Claim(
        task_id=ready.task_id,
        run_id=engine.insert(statements.OPEN, values),
        run_uid=RunUid(uid),
        fence=ready.fence + 1,
        lock=lock,
        attempt=ready.attempts + 1,
        queue=ready.queue,
        command=command_from(ready.command),
        payload=ready.payload,
        cwd=ready.cwd,
        env=strings_from(ready.env),
        liveness=Liveness(ready.liveness),
        lease_ttl_ms=ready.lease_ttl_ms,
        lease_expires_at=StoreTime(now + ready.lease_ttl_ms),
        output_path=f"{output_dir}/{uid}.log",
        last_outcome=last_outcome,
        previous_output_path=last_output,
        notify=bool(ready.notify),
        limits=ready.limits,
        profile=ready.profile,
        reports_leftovers=ready.rules is not None and "leftovers" in strings_from(ready.rules),
    )


def _last_run(engine: Engine, task_id: int, owner: str) -> tuple[Outcome | None, str | None]:
    rows = engine.rows(statements.LAST_RUN, {"task_id": task_id})
    if not rows:
        return None, None
    outcome, ran_on, output_path = rows[0]
    return outcome and Outcome(outcome), output_path if ran_on == owner else None
