"""What one claim writes: lock, uid and fence are minted, the run is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dispatcher.model import Claim, Limits, Liveness, Outcome
from dispatcher.store import statements
from dispatcher.store.engine import Engine, Row
from dispatcher.store.values import command_from, limits_from, strings_from
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode, RunUid


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
    kill_grace_ms: int | None
    kill_mode: str | None
    limits: Limits

    @classmethod
    def of(cls, row: Row) -> Ready:
        """Return a row by name."""
        return cls(*row[:15], limits=limits_from(row[15:]))  # type: ignore[misc]

    def takeover_at(self, until: StoreTime | None) -> StoreTime | None:
        """Return from when on another node may take the claim; None: never."""
        return None if until is None else StoreTime(until + (self.kill_grace_ms or 0))

    def expiry(self, now: StoreTime, deadline_at: StoreTime | None) -> StoreTime:
        """Return when the lease of a claim made now expires."""
        expires_at = StoreTime(now + self.lease_ttl_ms)
        return expires_at if deadline_at is None else min(expires_at, deadline_at)


def each_ready(rows: Iterable[Row], kill_grace_ms: int | None) -> Iterator[Ready]:
    """Yield rows by name, with the node's kill grace where the task has none of its own."""
    for ready in map(Ready.of, rows):
        yield (
            ready
            if ready.kill_grace_ms is not None
            else ready._replace(kill_grace_ms=kill_grace_ms)
        )


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
        "attempt": ready.attempts + 1,
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
        attempt=ready.attempts + 1,
        queue=ready.queue,
        command=command_from(ready.command),
        payload=ready.payload,
        cwd=ready.cwd,
        env=strings_from(ready.env),
        liveness=Liveness(ready.liveness),
        lease_ttl_ms=ready.lease_ttl_ms,
        lease_expires_at=expires_at,
        output_path=f"{output_dir}/{uid}.log",
        last_outcome=last_outcome,
        earlier_output_paths=earlier,
        notify=bool(ready.notify),
        limits=ready.limits,
        kill_grace_ms=ready.kill_grace_ms,
        kill_mode=KillMode(ready.kill_mode or KillMode.TREE),
        profile=ready.profile,
        reports_leftovers=ready.rules is not None and "leftovers" in strings_from(ready.rules),
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
        ready = ready._replace(lease_ttl_ms=lease_ttl_ms)
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
