"""Shared steps of the contract's tests."""

from typing import Any

import pytest

from dispatcher.execution import Claim, Settlement
from dispatcher.model import Outcome, TaskState
from dispatcher.named_limits import Rule, of_queue
from dispatcher.new_task import NewTask
from dispatcher.store.api import Store
from dispatcher.times import StoreTime

NOW = StoreTime(1_700_000_000_000)
TTL = 60_000
NODE = "node-1"

#: For tests of what only SQLite has or allows: files, PRAGMAs, a value of any type in any column.
EMBEDDED = pytest.mark.parametrize("url", ["sqlite"], indirect=True)

#: For tests of what only PostgreSQL has: schemas and roles.
SHARED = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


def later(milliseconds: int) -> StoreTime:
    """Return the store time that many milliseconds after `NOW`."""
    return StoreTime(NOW + milliseconds)


class OneByOne:
    """A store each of whose calls is a transaction of its own."""

    def __init__(self, store: Store) -> None:
        self.raw = store

    def __getattr__(self, name: str) -> Any:
        """Return the store's method, in a transaction."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.raw.transaction():
                return getattr(self.raw, name)(*args, **kwargs)

        return call

    def new(self, **wanted: Any) -> int:
        """Submit a task; return its id."""
        task_id: int = self.submit([new_task(**wanted)], now=NOW)[0].task_id
        return task_id

    def claimed(self, *, node: str = NODE, until: StoreTime | None = None, **wanted: Any) -> Claim:
        """Submit a task to a queue of its own and claim it."""
        self.new(**{"queue": "own", **wanted})
        (claim,) = self.take(wanted.get("queue", "own"), node=node, until=until)
        return claim

    def take(
        self,
        queue: str = "default",
        *,
        limit: int = 1,
        node: str = NODE,
        until: StoreTime | None = None,
        now: StoreTime = NOW,
    ) -> list[Claim]:
        claims: list[Claim] = self.claim(
            queue, limit=limit, node=node, output_dir="/out", until=until, now=now
        )
        return claims

    def end(self, claim: Claim, *, now: StoreTime = NOW, **facts: Any) -> bool:
        """Settle a claim's run: succeeded, unless the facts differ."""
        return bool(self.settle([settlement(claim, **facts)], now=now))

    def finished(self, *, now: StoreTime = NOW, **wanted: Any) -> int:
        """Bring a task to success; return its id."""
        claim = self.claimed(**wanted)
        self.end(claim, now=now)
        return claim.task_id

    def states(self) -> dict[int, TaskState]:
        with self.raw.transaction():
            return {row[0]: TaskState(row[1]) for row in self.sql("SELECT id, state FROM tasks")}

    def column(self, name: str, task_id: int) -> Any:
        """Return one column of a task, also one that the store shows to nobody."""
        with self.raw.transaction():
            ((value,),) = self.sql(f"SELECT {name} FROM tasks WHERE id = :id", {"id": task_id})
        return value

    def lease(self, name: str, task_id: int) -> Any:
        """Return one column of a task's open run; None without one."""
        statement = f"SELECT {name} FROM runs WHERE task_id = :id AND outcome IS NULL"
        with self.raw.transaction():
            return next((value for (value,) in self.sql(statement, {"id": task_id})), None)

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns."""
        statement = "SELECT name FROM pragma_table_info(:name)"
        if self.raw.engine.dialect.shared:
            statement = """
            SELECT column_name FROM information_schema.columns
            WHERE table_schema = current_schema AND table_name = :name"""
        with self.raw.transaction():
            return [name for (name,) in self.sql(statement, {"name": table})]

    def sql(self, statement: str, values: dict[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Execute a statement in the open transaction."""
        rows: list[tuple[Any, ...]] = self.raw.engine.rows(statement, values or {})
        return rows


def on_all(most: int, queue: str = "q") -> dict[str, Rule]:
    """Return the limit of a queue on all nodes."""
    return {of_queue(queue): Rule(concurrency=most)}


def new_task(**wanted: Any) -> NewTask:
    """Return a submission of `true`."""
    return NewTask(**{"command": ("true",), "max_attempts": 3, "lease_ttl_ms": TTL, **wanted})


def settlement(claim: Claim, **facts: Any) -> Settlement:
    """Return a settlement: succeeded, unless the facts differ."""
    given = {
        "run_uid": claim.run_uid,
        "task_id": claim.task_id,
        "outcome": Outcome.SUCCEEDED,
        "run_reason": "exit 0",
        "state": TaskState.SUCCEEDED,
        "reason": "it succeeded",
        "run_at": None,
        "attempts_used": 0,
        "deferrals": 0,
        "orphans": 0,
        "ended_at": NOW,
    }
    return Settlement(**{**given, **facts})
