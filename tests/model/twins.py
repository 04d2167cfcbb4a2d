"""The real store and the oracle: called alike, and compared row by row after every step."""

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant

from dispatcher.model import TaskState
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.times import HostClock, Instant, StoreTime, WallTime
from tests.fresh_stores import EMPTY, put_fresh_store
from tests.model.oracle import TaskModel
from tests.postgres import Postgres

NODE = "node-1"
EPOCH = 1_800_000_000_000
MEMORY = Path("/dev/shm")

#: Locks that may be presented for a task.
KINDS_OF_LOCKS = (
    *("own", "earlier", "other task's", "no task's"),
    *("one character off", "prefix", "longer", "upper case", "empty"),
)


class Twins(RuleBasedStateMachine):
    """A store and its model, and what their rules share."""

    server: Postgres | None = None
    """Where the store is; None: in a file."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = EPOCH
        where = MEMORY if MEMORY.is_dir() else None
        self.directory = Path(tempfile.mkdtemp(prefix="model-", dir=where))
        if self.server is None:
            put_fresh_store(self.directory)
        else:
            self.opened().close()  # which makes the first one
            self.server.sql(EMPTY)
        self.store = self.opened()
        self.tasks: dict[int, TaskModel] = {}
        self.settled: list[tuple[int, Any]] = []
        self.rng = random.Random(0)

    def opened(self) -> SqlStore:
        url = f"sqlite://{self.directory}/tasks.db" if self.server is None else self.server.url()
        store = open_store(url, state_dir=self.directory, patience=1.0, clock=self.host)
        assert isinstance(store, SqlStore)
        return store

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    def now(self) -> StoreTime:
        return StoreTime(self.clock)

    @property
    def host(self) -> HostClock:
        return HostClock(
            lambda: WallTime(self.clock), lambda: Instant(self.clock / 1000), lambda: "boot"
        )

    # Calling both ---------------------------------------------------------------------------

    def do(self, call: str, *args: Any, **kwargs: Any) -> Any:
        """Call the store, in a transaction of its own."""
        with self.store.transaction():
            return getattr(self.store, call)(*args, **kwargs)

    def rows(self, table: str, columns: str) -> list[tuple[Any, ...]]:
        with self.store.snapshot():
            return self.store.engine.rows(f"SELECT {columns} FROM {table} ORDER BY 1")

    def everything(self) -> list[Any]:
        return [self.rows("tasks", "*"), self.rows("runs", "*")]

    def any_in(self, state: TaskState) -> bool:
        return any(task.state is state for task in self.tasks.values())

    def pick(self, number: int) -> TaskModel:
        """Return a task that was claimed; first come those that run."""
        tasks = [task for task in self.tasks.values() if task.runs]
        tasks.sort(key=lambda task: (not task.running, task.id))
        return tasks[number % len(tasks)]

    def a_lock(self, task: TaskModel, kind: str) -> str:
        """Return a lock as somebody might present it for a task."""
        own = task.run.lock
        others = [other.run.lock for other in self.tasks.values() if other.running]
        off = ("0" if own[-1] != "0" else "1").join((own[:-1], ""))
        return {
            "own": own,
            "earlier": task.runs[-2].lock if len(task.runs) > 1 else own,
            "other task's": next((lock for lock in others if lock != own), own),
            "one character off": off,
            "prefix": own[:-1],
            "longer": own + "0",
            "upper case": own.upper(),
            "empty": "",
            "no task's": own,
        }[kind]

    # After every step -----------------------------------------------------------------------------

    @invariant()
    def every_task_is_as_the_protocol_requires(self) -> None:
        columns = (
            "tasks.id, state, tasks.fence, attempts_used, deferrals, orphans, lease_expires_at,"
            " last_heartbeat_at, progress, ending, intent, finished_at, node, run_uid"
        )
        rows = self.rows("tasks LEFT JOIN runs ON runs.uid = run_uid", columns)
        expected, found = {}, {row[0]: row[1:] for row in rows}
        for task in self.tasks.values():
            expected[task.id] = (
                *(task.state, len(task.runs), task.attempts, task.deferrals, task.orphans),
                *(task.expires if task.running else None, task.beaten, task.progress),
                *(task.ending, task.intent, task.finished),
                *((NODE, task.run.uid) if task.running else (None, None)),
            )
        assert expected == found

    @invariant()
    def every_run_is_as_the_protocol_requires(self) -> None:
        found = self.rows(
            "runs", "task_id, uid, lock, fence, attempt, outcome, declared, exit_code"
        )
        expected = {
            (
                *(task.id, run.uid, run.lock, run.fence, run.attempt, run.outcome),
                *(run.declared.word if run.declared else None, run.exit_code),
            )
            for task in self.tasks.values()
            for run in task.runs
        }
        assert expected == set(found)
        assert len(expected) == len(found)
        open_runs = sorted(row[0] for row in found if row[5] is None)
        assert sorted(task.id for task in self.tasks.values() if task.running) == open_runs
