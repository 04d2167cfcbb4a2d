"""The Python client: tasks in and out of the store, with or without a running daemon.

with Client(load()) as client:
    task_id = client.submit(command=["gzip", "big.log"], queue="nightly").task_id
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self, Unpack
from weakref import WeakSet

from dispatcher import commits, submission, task_checks
from dispatcher.config.config import Config
from dispatcher.control import ControlBell
from dispatcher.execution import Claim
from dispatcher.host import owner
from dispatcher.model import FINISHED, Intent, Pruned, Submitted, Task, TaskFilter, TaskState
from dispatcher.new_task import NewTask
from dispatcher.operations import tasks as operations
from dispatcher.operations.limits import LimitOperator
from dispatcher.operations.local_claims import LocalClaims
from dispatcher.store.open import open_store
from dispatcher.store.schema import is_shared
from dispatcher.submission import TaskOptions
from dispatcher.times import StoreTime
from dispatcher.words import Accepted, Refused, Renewed

if TYPE_CHECKING:
    from dispatcher.operations.editing import TaskEdits
    from dispatcher.outlook import IntentResult

#: Seconds that a call waits for other writers before it raises `StoreUnavailable`.
PATIENCE = 5.0


def _no_progress(_done: int, _total: int | None = None) -> None: ...


class Client(LimitOperator):
    """A connection to the store of one configuration; closed by `with` or `close`.

    Every method raises `StoreUnavailable` when the store does not answer within `patience` seconds
    (nothing was written), `StoreUnusable` when it is damaged or another one, and `CommitUnknown`
    when it is unknown whether the change was made: its text gives the remedy. Changes that give the
    daemon work wake it, if one runs. After a fork every method but `close` raises
    `DispatcherError` in the child: open another client there.

    A missing database file is created; a missing store on a server is `StoreUnusable`, as a name
    may be wrong: `dispatcher run` and `dispatcher migrate` create that.

    Root gets a `ConfigError` for another user's state directory: a library cannot change its user.
    """

    def __init__(self, config: Config, *, patience: float = PATIENCE) -> None:
        self.config = config
        if (foreign := owner.foreign_owner(config.state_dir, config.other_places)) is not None:
            raise owner.refused(foreign, config.state_dir)
        self.store = open_store(
            config.store_url,
            schema=config.store_schema,
            state_dir=config.state_dir,
            patience=patience,
            create=not is_shared(config.store_url),
            bell=ControlBell(config),
        )
        """The store as it is, whose methods check nothing; for tests and tools."""
        if config.hooks.are_given:
            from dispatcher import hook_tasks  # noqa: PLC0415 - few configurations have hooks

            self.store.use_hooks(hook_tasks.hooks_of(config, hook_tasks.warn))
        self._locks: dict[int, str] = {}
        self._unread: WeakSet[Generator[Submitted]] = WeakSet()
        """Results of `submit_all` whose ids are not read yet; closing one removes them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and the results of `submit_all`. Idempotent."""
        try:
            for submitted in list(self._unread):
                submitted.close()
        finally:
            self.store.close()

    def submit(
        self,
        task: NewTask | None = None,
        *,
        command: Sequence[str] = (),
        **options: Unpack[TaskOptions],
    ) -> Submitted:
        """Accept one task, as a value or as keyword arguments. Raises `InvalidTask`."""
        if task is None:
            task = submission.new_task(self.config, command, options)  # which checks it
        else:
            task = task_checks.checked(task)
        return operations.accept(self.store, [*operations.with_parents(self.store, [task])])[0]

    def submit_many(
        self, tasks: Iterable[NewTask], *, report: Callable[..., object] = _no_progress
    ) -> list[Submitted]:
        """Accept all tasks or, when one is invalid, none. Raises `InvalidTask`.

        `report` is called with the number of tasks read, then with the number created and their
        total. If every task has a key, a commit without an answer is looked up by the keys. An
        interruption after the acceptance raises `CommitUnknown`, which names it.
        """
        return list(self.submit_all(tasks, report=report))

    def submit_all(
        self, tasks: Iterable[NewTask], *, report: Callable[..., object] = _no_progress
    ) -> Iterator[Submitted]:
        """Do the same for more tasks than fit in memory. Read the ids before the client closes."""
        from dispatcher import bulk  # noqa: PLC0415 - no single submit needs it

        submitted = bulk.submit(
            self.store,
            self.config.state_dir,
            operations.with_parents(self.store, map(task_checks.checked, tasks), several=True),
            at_once=partial(operations.accept, self.store),
            report=report,
        )
        self._unread.add(submitted)
        return submitted

    # Verbs of operators return the state that the task was in; None if there is no such task.
    def cancel(self, task_id: int, reason: str = "cancelled by an operator") -> TaskState | None:
        """Cancel an unfinished task; the daemon ends a running one, a local claim ends at once."""
        return self.request(task_id, Intent.CANCEL, reason).was

    def hold(self, task_id: int, reason: str | None = None) -> TaskState | None:
        """Park an unfinished task until it is released; a running one is ended first.

        A held task gets the reason if one is given.
        """
        return self.request(task_id, Intent.HOLD, reason).was

    def release(self, task_id: int) -> TaskState | None:
        """Make a held task go on, or one that is to be held or waits; it needs an attempt left."""
        return self.request(task_id, Intent.RELEASE).was

    def retry(self, task_id: int) -> TaskState | None:
        """Make a failed, cancelled or held task ready with all attempts, now or after its run."""
        return self.request(task_id, Intent.RETRY).was

    def request(
        self, task_id: int, intent: Intent | str, reason: str | None = None
    ) -> IntentResult:
        """Cancel, hold, release or retry a task, and return also what becomes of it.

        `intent` is an `Intent` or its word. Raises ValueError for another word.
        """
        from dispatcher.operations import intents  # noqa: PLC0415 - no submit needs it

        return intents.request(self.store, task_id, intent, reason)

    def request_each(
        self,
        task_ids: Iterable[int],
        intent: Intent | str,
        reason: str | None = None,
        *,
        wanted: TaskFilter | None = None,
    ) -> list[IntentResult]:
        """Do the same for many tasks, some in one transaction, between which others write.

        With a filter, tasks that do not match it then are left alone, and left out. Raises
        `CommitUnknown`, which counts the tasks that are done, for an error after the first ones.
        """
        from dispatcher.operations import intents  # noqa: PLC0415 - no submit needs it

        ids = list(dict.fromkeys(task_ids))
        batches = intents.request_each(self.store, self.config, ids, intent, reason, wanted=wanted)
        return [result for results in batches for result in results]

    def answer(self, task_id: int, text: str) -> IntentResult:
        """Answer a held task, and release it. Raises `NoTask`, `DispatcherError` for another."""
        from dispatcher.operations import answers  # noqa: PLC0415 - no submit needs it

        return answers.answer(self.store, task_id, text)

    def edit(self, task_id: int, **edits: Unpack[TaskEdits]) -> TaskState | None:
        """Change a task that waits or may be retried; a running or succeeded one stays as it is.

        Raises `InvalidTask` for what no task in its state may have, for the command of a profile,
        and for a queue in which its key is in use.
        """
        from dispatcher.operations import editing  # noqa: PLC0415 - no submit needs it

        return editing.edit(self.store, self.config, task_id, edits)

    def pause(self, queue: str, reason: str = "paused by an operator") -> bool:
        """Stop claims from a queue; False: it was paused already. Raises `InvalidTask`."""
        submission.check_queue(queue)
        pause = commits.first_answer(lambda now: self.store.pause(queue, reason, now=now))
        return commits.change(self.store, pause, remedy="pause it again")

    def resume(self, queue: str) -> bool:
        """Allow claims from a queue again; False: it was not paused."""
        resume = commits.first_answer(lambda now: self.store.resume(queue, now=now))
        return commits.change(self.store, resume, remedy="resume it again")

    def prune(
        self,
        *,
        older_than_ms: int,
        states: Collection[TaskState] = FINISHED,
        report: Callable[[int], object] = bool,
    ) -> Pruned:
        """Delete tasks in these states that finished at least so long ago, with their runs.

        Output files go too, if they are this node's and no process has them open. Each batch is
        one transaction. `report` is called repeatedly with the number of tasks deleted.
        """
        with self.store.snapshot() as now:
            before = StoreTime(now - older_than_ms)
        return operations.prune(
            self.store, self.config, before=before, states=states, report=report
        )

    @property
    def _claims(self) -> LocalClaims:
        return LocalClaims(self.store, self.config, self._locks)

    def claim(
        self,
        *,
        queue: str | None = None,
        task_id: int | None = None,
        lease_ttl_ms: int | None = None,
    ) -> Claim | None:
        """Claim the next ready task of a queue [default: as configured], or the named one.

        The claim holds until its lease expires, whatever the task's liveness: only `heartbeat`
        renews it, up to the task's run time-out from now and its total one from its submit. A
        `lease_ttl_ms` replaces the task's own. This client remembers the lock for its other calls;
        another process must be given it. None: nothing to claim. Raises `QueuePaused` if a paused
        queue prevents the claim, `InvalidTask` for an invalid queue name or lease.
        """
        return self._claims.claim(queue, task_id, lease_ttl_ms)

    def give_back(self, claim: Claim, reason: str) -> None:
        """Release a claim that was made here: its lock is void, and its task is as before."""
        self._claims.give_back(claim, reason)

    def heartbeat(
        self,
        task_id: int,
        *,
        lock: str | None = None,
        progress: float | None = None,
        note: str | None = None,
        checkpoint: object = None,
    ) -> Renewed | Refused:
        """Renew a lease, by the given lock, this client's own, or `$DISPATCHER_CLAIM_LOCK`.

        Raises `NoLock` without any, ValueError for invalid values.
        """
        facts = {"progress": progress, "note": note, "checkpoint": checkpoint}
        return self._claims.heartbeat(task_id, lock, **facts)

    def complete(
        self, task_id: int, *, lock: str | None = None, result: object = None
    ) -> Accepted | Refused:
        """Declare success; a local claim is settled at once, a worker's when its process is gone.

        `result` is anything that JSON can hold. For the lock and the errors see `heartbeat`.
        """
        return self._claims.declare("succeed", task_id, lock, result=result)

    def fail(
        self, task_id: int, reason: str, *, lock: str | None = None, retry: bool = True
    ) -> Accepted | Refused:
        """Declare failure; without `retry` for good. See `complete`."""
        return self._claims.declare("fail", task_id, lock, reason=reason, retry=retry)

    def wait(
        self,
        task_ids: Iterable[int],
        *,
        any_one: bool = False,
        timeout_ms: int | None = None,
        report: Callable[..., object] = _no_progress,
    ) -> dict[int, Task | None]:
        """Wait until all tasks are done, or one; return those that are, None for a deleted one.

        A task is done when it is finished, or held for a person. The time-out does not raise: tasks
        that are not done by then are left out. `report` is called with the number of those done.
        """
        from dispatcher.operations import waiting  # noqa: PLC0415 - no submit needs it

        awaited = waiting.AwaitedTasks(self.store, task_ids)
        awaited.wait(any_one=any_one, until=waiting.deadline(timeout_ms), report=report)
        return {one: self.task(one) for one in awaited.states}
