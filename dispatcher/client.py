"""The Python client: tasks in and out of the store, with or without a running daemon.

with Client(load()) as client:
    task_id = client.submit(command=["gzip", "big.log"], queue="nightly").task_id
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from dispatcher import control, submission
from dispatcher.config import Config
from dispatcher.model import (
    NewTask,
    Node,
    Pruned,
    Run,
    Submitted,
    Task,
    TaskFilter,
    TaskState,
)
from dispatcher.node import known_node_id
from dispatcher.store.open import open_store
from dispatcher.submission import TaskOptions
from dispatcher.times import StoreTime

#: Seconds that a call waits for other writers before it raises `StoreUnavailable`.
PATIENCE = 5.0

#: Tasks deleted in one transaction. Bounds how long a prune keeps the daemon waiting.
PRUNE_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How things stand."""

    counts: Mapping[str, Mapping[TaskState, int]]
    """How many tasks are in each state, by queue."""
    node: Node | None
    """This node's row; None if no daemon ever ran here."""
    daemon: Literal["running", "not running", "not answering"]
    report: Mapping[str, Any]
    """What a running daemon says of itself."""


class Client:
    """A connection to the store of one configuration; closed by `with` or `close`.

    Any method raises `StoreUnavailable` when the store does not answer within `patience` seconds,
    and `StoreUnusable` when it is not what was left. What makes work wakes the daemon, if one runs.
    """

    def __init__(self, config: Config, *, patience: float = PATIENCE) -> None:
        self._config = config
        self._store = open_store(config.store_url, state_dir=config.state_dir, patience=patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._store.close()

    # Submitting ------------------------------------------------------------------------

    def submit(
        self,
        task: NewTask | None = None,
        *,
        command: Sequence[str] = (),
        **options: Unpack[TaskOptions],
    ) -> Submitted:
        """Accept one task, as a value or as keyword arguments. Raises `InvalidTask`."""
        return self.submit_many([task or submission.new_task(self._config, command, options)])[0]

    def submit_many(self, tasks: Iterable[NewTask]) -> list[Submitted]:
        """Accept all tasks or, when anything is wrong with one, none. Raises `InvalidTask`."""
        wanted = list(tasks)
        for task in wanted:
            submission.check(task)
        with self._store.transaction() as now:
            submitted = [self._store.submit(task, now=now) for task in wanted]
        control.wake(self._config.control_socket)
        return submitted

    # Operating -------------------------------------------------------------------------

    def cancel(self, task_id: int, reason: str = "cancelled by an operator") -> TaskState | None:
        """Cancel a task; a running one is ended by the daemon.

        Return the state it was in, None if there is no such task. A finished one stays as it is.
        """
        with self._store.transaction() as now:
            before = self._store.cancel(task_id, reason, now=now)
        control.wake(self._config.control_socket)
        return before

    def retry(self, task_id: int) -> TaskState | None:
        """Make a failed, cancelled or held task ready again, with all its attempts.

        Return the state it was in, None if there is no such task. In any other state it stays.
        """
        with self._store.transaction() as now:
            before = self._store.retry(task_id, now=now)
        control.wake(self._config.control_socket)
        return before

    def prune(self, *, older_than_ms: int) -> Pruned:
        """Delete tasks that finished so long ago, with their runs and this node's output files."""
        tasks = 0
        removed: list[str] = []
        while (batch := self._prune_batch(older_than_ms)).tasks:
            tasks += batch.tasks
            removed += batch.output_paths
        return Pruned(tasks, tuple(removed))

    def _prune_batch(self, older_than_ms: int) -> Pruned:
        with self._store.transaction() as now:
            before = StoreTime(now - older_than_ms)
            batch = self._store.prune(before=before, limit=PRUNE_BATCH)
            # Before the commit: afterwards nobody would know of a file that is still there.
            ours = [path for path in batch.output_paths if self._is_ours(path)]
            for path in ours:
                with suppress(OSError):
                    Path(path).unlink(missing_ok=True)
        return Pruned(batch.tasks, tuple(ours))

    def _is_ours(self, output_path: str) -> bool:
        """Tell this node's files from those of others, whose paths mean nothing here."""
        return Path(output_path).parent == self._config.output_dir

    # Reading ---------------------------------------------------------------------------

    def task(self, task_id: int) -> Task | None:
        """Return a task, None if there is none with this id."""
        with self._store.snapshot():
            return self._store.task(task_id)

    def runs(self, task_id: int) -> list[Run]:
        """Return a task's runs, oldest first."""
        with self._store.snapshot():
            return self._store.runs(task_id)

    def tasks(self, wanted: TaskFilter | None = None) -> list[Task]:
        """Return the tasks that a filter lets through, newest first."""
        with self._store.snapshot():
            return self._store.tasks(wanted or TaskFilter())

    def status(self) -> Status:
        """Return counts, this node's row, and what a running daemon says of itself."""
        me = known_node_id(self._config.state_dir)
        with self._store.snapshot():
            counts = self._store.counts()
            nodes = {node.id: node for node in self._store.nodes()}
        node = nodes.get(me or "")
        try:
            report = control.status(self._config.control_socket)
        except TimeoutError:
            return Status(counts=counts, node=node, daemon="not answering", report={})
        if report is None:
            return Status(counts=counts, node=node, daemon="not running", report={})
        return Status(counts=counts, node=node, daemon="running", report=report)
