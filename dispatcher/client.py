"""The Python client: tasks in and out of the store, with or without a running daemon.

with Client(load()) as client:
    task_id = client.submit(command=["gzip", "big.log"], queue="nightly").task_id

with Client(load()) as client:  # or be the worker oneself
    claim = client.claim(queue="reviews")
    client.heartbeat(claim.task_id, progress=0.5)
    client.complete(claim.task_id, result={"verdict": "fine"})
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack
from weakref import WeakSet

from dispatcher import commits, control, submission
from dispatcher.calendar import Calendar
from dispatcher.config.config import Config
from dispatcher.errors import DispatcherError, NoLock
from dispatcher.execution import LOCAL, Claim
from dispatcher.host import output_files, owner
from dispatcher.model import (
    FINISHED,
    INTENDED,
    Intent,
    NewTask,
    Outcome,
    PausedQueue,
    Pruned,
    Run,
    Submitted,
    Task,
    TaskFilter,
    TaskState,
)
from dispatcher.outlook import Asked, Outlook, outlook
from dispatcher.store.open import open_store
from dispatcher.store.search import each_task
from dispatcher.submission import TaskOptions
from dispatcher.times import StoreTime
from dispatcher.words import Accepted, Beat, Declaration, Refused, Renewed, validated_message

if TYPE_CHECKING:
    from dispatcher.overview import Status
    from dispatcher.standing import Standing

#: Seconds that a call waits for other writers before it raises `StoreUnavailable`.
PATIENCE = 5.0

#: Tasks moved to ready, and as many failed whose time is over, before a claim. Bounds how long
#: others wait for the store.
DUE_BATCH = 500


#: Steps for bulk submits whose client is gone, in a claim that finds nothing. Bounds its time.
STEPS = 20


def _unheard(_done: int, _total: int | None = None) -> None:
    """Show nobody how far it is."""


class Client:
    """A connection to the store of one configuration; closed by `with` or `close`.

    Any method raises `StoreUnavailable` when the store does not answer within `patience` seconds
    (nothing was written), `StoreUnusable` when it is not what was left, and `CommitUnknown` when
    nobody can tell whether the change was made: its text says what to do. What makes work wakes the
    daemon, if one runs. In a child that was forked since, any but `close` raises `DispatcherError`:
    open another there.

    Root in another user's state directory gets a `ConfigError`: a library cannot change the user of
    its program, as the command line does.
    """

    def __init__(self, config: Config, *, patience: float = PATIENCE) -> None:
        self.config = config
        """What it goes by."""
        if (foreign := owner.foreign_owner(config.state_dir, config.other_places)) is not None:
            raise owner.refused(foreign, config.state_dir)
        self._store = open_store(config.store_url, state_dir=config.state_dir, patience=patience)
        self._locks: dict[int, str] = {}
        self._unread: WeakSet[Generator[Submitted]] = WeakSet()
        """What was submitted, until its ids are read: each removes them when it is closed."""

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
        """Close the connection, and what `submit_all` returned. Idempotent."""
        try:
            for submitted in list(self._unread):
                submitted.close()
        finally:
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
        if task is None:
            task = submission.new_task(self.config, command, options)
        (submitted,) = self._accept([submission.checked(task)])
        with commits.report_done(f"task {submitted.task_id} is accepted: do not submit it again"):
            self._wake()
        return submitted

    def submit_many(
        self, tasks: Iterable[NewTask], *, tell: Callable[..., object] = _unheard
    ) -> list[Submitted]:
        """Accept all tasks or, when anything is wrong with one, none. Raises `InvalidTask`.

        `tell` is called as it goes on, with how many are read, and then with how many are tasks and
        of how many. Where each has a key, a commit without an answer is looked up by the keys.
        Whatever ends it once all are accepted, Ctrl-C or `tell` too, raises `CommitUnknown`, whose
        text says so.
        """
        return list(self.submit_all(tasks, tell=tell))

    def submit_all(
        self, tasks: Iterable[NewTask], *, tell: Callable[..., object] = _unheard
    ) -> Iterator[Submitted]:
        """Do the same with more tasks than memory should hold: they are taken one by one.

        When it returns, all are accepted; what is left to do is to read their ids, soon, and before
        the client is closed.
        """
        from dispatcher import bulk  # noqa: PLC0415 - no single submit needs it

        checked = map(submission.checked, tasks)
        submitted = bulk.submit(
            self._store, self.config.state_dir, checked, at_once=self._accept, tell=tell
        )
        self._unread.add(submitted)
        with commits.report_done("all tasks are accepted: do not submit them again"):
            self._wake()
        return submitted

    def _accept(self, tasks: Sequence[NewTask]) -> list[Submitted]:
        def accept(now: StoreTime) -> list[Submitted]:
            self._store.watch_clock()
            return [self._store.submit(task, now=now) for task in tasks]

        keyed = bool(tasks) and all(task.key is not None for task in tasks)
        told = "see `dispatcher list` first; a --key makes it safe"
        if keyed:
            told = "submit it again, with the same key"
        return commits.change(self._store, accept, remedy=told, harmless_twice=keyed)

    # Operating -------------------------------------------------------------------------

    def cancel(self, task_id: int, reason: str = "cancelled by an operator") -> TaskState | None:
        """Cancel a task; a running one is ended by the daemon, a local claim at once.

        Return the state it was in, None if there is no such task. A finished one stays as it is.
        """
        return self.ask(task_id, Intent.CANCEL, reason).was

    def retry(self, task_id: int) -> TaskState | None:
        """Make a failed, cancelled or held task ready again, with all its attempts.

        One whose run is ending becomes so once it has ended. Return the state it was in, None if
        there is no such task. In any other state it stays.
        """
        return self.ask(task_id, Intent.RETRY).was

    def hold(self, task_id: int, reason: str = "held by an operator") -> TaskState | None:
        """Park a task until it is released; a running one is ended first, a local claim at once.

        Return the state it was in, None if there is no such task. A finished one stays as it is.
        """
        return self.ask(task_id, Intent.HOLD, reason).was

    def release(self, task_id: int) -> TaskState | None:
        """Make a held task ready, with the attempts it has left. See `retry` for all of them.

        One that is going to be held becomes so once its run has ended. Return the state it was in,
        None if there is no such task. In any other state it stays, and where no attempt is left.
        """
        return self.ask(task_id, Intent.RELEASE).was

    def ask(self, task_id: int, intent: Intent | str, reason: str | None = None) -> Asked:
        """Do what `cancel`, `hold`, `release` and `retry` do; return what becomes of the task.

        `intent` is an `Intent` or its word. Raises ValueError for another.
        """
        intent = _intent(intent)
        why = reason or f"{INTENDED[intent]} by an operator"

        def do(now: StoreTime) -> Asked:
            self._store.watch_clock()
            self._settle_abandoned(now)
            match intent:
                case Intent.CANCEL:
                    was = self._store.cancel(task_id, why, now=now)
                case Intent.HOLD:
                    was = self._store.hold(task_id, why, now=now)
                case Intent.RELEASE:
                    was = self._store.release(task_id, policy=self.config.retry.policy(), now=now)
                case Intent.RETRY:
                    was = self._store.retry(task_id, now=now)
            self._settle_abandoned(now)
            ahead = self._outlook(task_id, now) if was is TaskState.RUNNING else None
            return Asked(intent, task_id, was, self._store.task(task_id), ahead)

        told = f"see `dispatcher show {task_id}`"
        asked = commits.change(self._store, commits.first_answer(do), remedy=told)
        self._wake()
        return asked

    def outlook(self, task_id: int) -> Outlook | None:
        """Return the outcome of a run that is ending, and its task's next state; None: none is.

        What is asked of the task meanwhile changes it.
        """
        with self._store.snapshot() as now:
            return self._outlook(task_id, now)

    def _outlook(self, task_id: int, now: StoreTime) -> Outlook | None:
        runs = self._store.runs(task_id)
        run = self._store.open_run(runs[-1].uid) if runs else None
        if run is None or not run.is_ending:
            return None
        from random import SystemRandom  # noqa: PLC0415 - hardly ever needed, and slow to import

        return outlook(run, self.config.retry.policy(), now=now, rng=SystemRandom())

    def pause(self, queue: str, reason: str = "paused by an operator") -> bool:
        """Let nothing of a queue be claimed any more; False when it was so already.

        Raises `InvalidTask` for what no queue is called.
        """
        submission.check_queue(queue)
        pause = commits.first_answer(lambda now: self._store.pause(queue, reason, now=now))
        return commits.change(self._store, pause, remedy="pause it again")

    def resume(self, queue: str) -> bool:
        """Let tasks of a queue be claimed again; False when it was so already."""
        resume = commits.first_answer(lambda _: self._store.resume(queue))
        resumed = commits.change(self._store, resume, remedy="resume it again")
        self._wake()
        return resumed

    def prunable(self, *, older_than_ms: int, states: Collection[TaskState] = FINISHED) -> int:
        """Return how many tasks in these states finished so long ago."""
        with self._store.snapshot() as now:
            return self._store.prunable(before=StoreTime(now - older_than_ms), states=states)

    def prune(
        self,
        *,
        older_than_ms: int,
        states: Collection[TaskState] = FINISHED,
        tell: Callable[[int], object] = bool,
    ) -> Pruned:
        """Delete tasks in these states that finished so long ago, with their runs.

        Their output files go too, where they are this node's and no process has them open. It goes
        in small transactions, between which others work; interrupted, what is gone is gone.

        `tell` is called as it goes on, with how many are gone.
        """
        tasks = 0
        removed: list[str] = []
        for batch in self._prune_batches(older_than_ms, states):
            tasks += batch.tasks
            for path in batch.output_paths:
                ours = output_files.here(path, str(self.config.output_dir))
                size = output_files.remove(ours)
                if size is not None and size >= 0:
                    removed.append(ours)
            tell(tasks)
        return Pruned(tasks, tuple(removed))

    def _prune_batches(self, older_than_ms: int, states: Collection[TaskState]) -> Iterator[Pruned]:
        from dispatcher import bulk  # noqa: PLC0415 - no submit needs it

        turns = bulk.Turns(self._store, self.config.state_dir)
        began: list[StoreTime] = []  # so that it ends, however fast others finish

        def delete(now: StoreTime) -> Pruned:
            began.append(now)
            before = StoreTime(began[0] - older_than_ms)
            return self._store.prune(before=before, limit=turns.rows, states=states)

        told = "prune again; output that has lost its runs goes when it is old enough"
        more = True
        while more:
            yield (batch := turns.take(delete, remedy=told, harmless_twice=False))
            more = batch.more

    # Being the worker oneself ------------------------------------------------------------

    def claim(
        self,
        *,
        queue: str | None = None,
        task_id: int | None = None,
        lease_ttl_ms: int | None = None,
    ) -> Claim | None:
        """Claim the next ready task of a queue [default: as configured], or one that is named.

        It is yours until its lease expires: only `heartbeat` renews it, whatever its liveness.
        The lock is remembered for this client's other calls; another process needs to be given it.
        With a `lease_ttl_ms` that is the task's lease from now on. No beat renews it beyond the
        task's run and total time-outs, counted from now and from its submit. None: nothing to
        claim. Raises `DispatcherError` where a paused queue keeps everybody out, `InvalidTask` for
        what no queue is called and no lease may be.
        """
        from uuid import uuid4  # noqa: PLC0415 - no submit needs it

        wanted = self.config.defaults.queue if queue is None else queue
        submission.check_claim(wanted, lease_ttl_ms)
        made: list[Claim] = []

        def take(now: StoreTime) -> Claim | PausedQueue | None:
            if made and self._store.open_run(made[0].run_uid) is not None:
                return made[0]  # the first time, and the commit's answer was lost
            self._store.watch_clock()
            self._settle_abandoned(now)
            self._store.move_due(limit=DUE_BATCH, now=now)
            self._store.give_up(limit=DUE_BATCH, now=now)
            claim = self._store.claim_local(
                wanted,
                owner=f"{LOCAL}{uuid4()}",
                output_dir=str(self.config.output_dir),
                task_id=task_id,
                lease_ttl_ms=lease_ttl_ms,
                now=now,
            )
            made.extend([claim] if claim is not None else [])
            return claim or self._paused(wanted, task_id)

        told = "claim again; what was claimed now is `lost` when its lease expires"
        claim = commits.change(self._store, take, remedy=told)
        if claim is None and self._go_on():
            claim = commits.change(self._store, take, remedy=told)
        if isinstance(claim, PausedQueue):
            told = f"queue {claim.queue} is paused: {claim.reason}"
            raise DispatcherError(f"{told}; `dispatcher resume {claim.queue}` ends that")
        if claim is not None:
            self._locks[claim.task_id] = claim.lock
        return claim

    def _go_on(self) -> bool:
        """Make tasks of what others had accepted, as a daemon does; say whether any may be."""
        with self._store.snapshot():
            if not self._store.coming():
                return False
        from dispatcher import bulk  # noqa: PLC0415 - hardly ever needed

        turns = bulk.Turns(self._store, self.config.state_dir)
        steps = takewhile(bool, (bulk.go_on(self._store, turns) for _ in range(STEPS)))
        return any([*steps])

    def give_back(self, claim: Claim, reason: str) -> None:
        """Release a claim that was made here: its lock is void, and its task is as before."""

        def release(now: StoreTime) -> None:
            self._store.begin_ending(claim.run_uid, Outcome.RELEASED, reason, now=now)
            self._settle_abandoned(now)

        told = "see `dispatcher show`; otherwise it is `lost` when its lease expires"
        commits.change(self._store, release, remedy=told)
        self._wake()

    def _paused(self, queue: str, task_id: int | None) -> PausedQueue | None:
        """Return the paused queue that keeps a task, or any of a queue, from being claimed."""
        if task_id is not None:
            task = self._store.task(task_id)
            if task is None or task.state is not TaskState.READY:
                return None
            queue = task.queue
        return next((one for one in self._store.paused_queues() if one.queue == queue), None)

    def heartbeat(
        self,
        task_id: int,
        *,
        lock: str | None = None,
        progress: float | None = None,
        note: str | None = None,
    ) -> Renewed | Refused:
        """Renew the lease of a claim, your own or a worker's.

        The lock is the one given, else the one that this client claimed the task with, else
        `$DISPATCHER_CLAIM_LOCK`. Raises `NoLock` without any, ValueError for what cannot be said.
        """
        beat = self._words("heartbeat", task_id, lock, progress=progress, note=note)
        assert isinstance(beat, Beat)
        return commits.change(
            self._store,
            lambda now: self._store.heartbeat(beat, now=now),
            remedy="work on and beat again",
        )

    def complete(
        self, task_id: int, *, lock: str | None = None, result: object = None
    ) -> Accepted | Refused:
        """Declare success; a local claim is settled at once, a worker's when its process is gone.

        `result` is anything that can be JSON. For the lock and what is raised see `heartbeat`.
        """
        return self._declare(self._words("succeed", task_id, lock, result=result))

    def fail(
        self, task_id: int, reason: str, *, lock: str | None = None, retry: bool = True
    ) -> Accepted | Refused:
        """Declare failure; without `retry` for good. See `complete`."""
        return self._declare(self._words("fail", task_id, lock, reason=reason, retry=retry))

    def _words(
        self, op: str, task_id: int, lock: str | None, **facts: object
    ) -> Beat | Declaration:
        """Return what would be said over the worker socket, held to the same limits."""
        if lock is None:
            lock = self._locks.get(task_id) or os.environ.get("DISPATCHER_CLAIM_LOCK")
        if not lock:
            raise NoLock(
                f"no lock for task {task_id}, so nothing was written: give the lock that `claim`"
                " printed (--lock, --lock-file or $DISPATCHER_CLAIM_LOCK)"
            )
        return validated_message(op, task_id, lock, **facts)

    def _declare(self, words: Beat | Declaration) -> Accepted | Refused:
        assert isinstance(words, Declaration)

        def declare(now: StoreTime) -> Accepted | Refused:
            answer = self._store.declare(words, now=now)
            self._settle_abandoned(now)
            return answer

        told = "declare the same again, which does no harm"
        answer = commits.change(self._store, declare, remedy=told)
        self._wake()
        return answer

    def _settle_abandoned(self, now: StoreTime) -> None:
        """Settle the claims that nobody else must see to: it needs no daemon."""
        if not self._store.abandoned(limit=1, now=now):
            return
        from random import SystemRandom  # noqa: PLC0415 - hardly ever needed, and slow to import

        from dispatcher.supervisor.takeover import settle_abandoned  # noqa: PLC0415

        retry, rng = self.config.retry.policy(), SystemRandom()
        while settle_abandoned(self._store, retry, rng=rng, now=now):
            pass

    def _wake(self) -> None:
        control.wake(control.find(self.config))

    # Reading ---------------------------------------------------------------------------

    def task(self, task_id: int) -> Task | None:
        """Return a task, None if there is none with this id."""
        with self._store.snapshot():
            return self._store.task(task_id)

    def runs(self, task_id: int) -> list[Run]:
        """Return a task's runs, oldest first, with their outputs where they are now."""
        with self._store.snapshot():
            runs = self._store.runs(task_id)
        return [self._moved(run) for run in runs]

    def _moved(self, run: Run) -> Run:
        moved = output_files.here(run.output_path, str(self.config.output_dir))
        is_there = run.output_path != moved and Path(moved).exists()
        return replace(run, output_path=moved) if is_there else run

    def counts(self) -> Mapping[str, Mapping[TaskState, int]]:
        """Return how many tasks are in each state, by queue."""
        with self._store.snapshot():
            return self._store.counts()

    def queues(self) -> frozenset[str]:
        """Return the queues that tasks are in, and those that the configuration names."""
        named = {self.config.defaults.queue, *self.config.queues}
        named |= {one.queue for one in self.config.profiles.values() if one.queue is not None}
        return frozenset({*self.counts(), *named})

    def now(self) -> StoreTime:
        """Return the store's time."""
        with self._store.snapshot() as now:
            return now

    def calendar(self) -> Calendar:
        """Return what turns the store's times into dates: its clock goes on when yours is set."""
        with self._store.snapshot():
            return self._store.calendar()

    def tasks(self, wanted: TaskFilter | None = None) -> list[Task]:
        """Return the tasks that a filter lets through, newest first or as it says."""
        return list(self.each_task(wanted or TaskFilter()))

    def each_task(self, wanted: TaskFilter) -> Iterator[Task]:
        """Yield the same, reading a bounded part of the table at a time."""
        return each_task(self._store, wanted)

    def status(self) -> Status:
        """Return how things stand, with what takes a look at every task."""
        from dispatcher import overview  # noqa: PLC0415 - no submit needs it

        return overview.status(self._store, self.config)

    def standing(self) -> Standing:
        """Return how this node stands, and what a running daemon says of itself."""
        from dispatcher import overview  # noqa: PLC0415 - no submit needs it

        return overview.standing(self._store, self.config)

    def outcomes(self) -> Mapping[Outcome, int]:
        """Return how many closed runs of each outcome are kept."""
        with self._store.snapshot():
            return self._store.outcomes()


def _intent(word: Intent | str) -> Intent:
    try:
        return Intent(word)
    except ValueError:
        raise ValueError(f"intent: must be one of {', '.join(Intent)}, not {word!r}") from None
