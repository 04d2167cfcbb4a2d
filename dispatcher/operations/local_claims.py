"""Local claims: the caller is the worker, whether a daemon runs or not."""

import os
from itertools import takewhile

from dispatcher import commits, submission
from dispatcher.config.config import Config
from dispatcher.errors import NoLock, QueuePaused
from dispatcher.execution import LOCAL, Claim, Rows
from dispatcher.model import Outcome, PausedQueue, TaskState
from dispatcher.store.api import Store
from dispatcher.times import StoreTime, sleep
from dispatcher.words import Accepted, Beat, Declaration, Refused, Renewed, validated_message

#: Tasks moved to ready, as many failed whose time is over, and as many let go on whose parents have
#: finished, before a claim. Bounds how long others wait for the store.
DUE_BATCH = 500

#: Seconds between two tries of a claim that found damaged tasks alone: others write meanwhile.
PAUSE = 0.005

#: Steps for bulk submits whose client is gone, in a claim that finds nothing. Bounds its time.
STEPS = 20


#: Ready tasks among which one is searched that this host may run.
FOREMOST = 101


class LocalClaims:
    """The claims of one client, with their locks by task id."""

    def __init__(self, store: Store, config: Config, locks: dict[int, str]) -> None:
        self._store = store
        self._config = config
        self._locks = locks

    def claim(
        self, queue: str | None, task_id: int | None, lease_ttl_ms: int | None
    ) -> Claim | None:
        queue = self._config.defaults.queue if queue is None else queue
        submission.check_claim(queue, lease_ttl_ms)
        made: list[Claim] = []

        def take(now: StoreTime) -> Claim | PausedQueue | None:
            if made and self._store.open_run(made[0].run_uid) is not None:
                return made[0]  # committed the first time, and the answer was lost
            claim = self._claim(queue, task_id, lease_ttl_ms, now)
            made.extend([claim] if claim is not None else [])
            return claim or self._paused(queue, task_id)

        remedy = "claim again; what was claimed now is `lost` when its lease expires"
        claim = commits.change(self._store, take, remedy=remedy)
        while claim is None and self._is_ready(queue, task_id):
            claim = commits.change(self._store, take, remedy=remedy)
        if claim is None and self._admit_accepted():
            claim = commits.change(self._store, take, remedy=remedy)
        if isinstance(claim, PausedQueue):
            raise QueuePaused(claim.queue, claim.reason)
        if claim is not None:
            self._locks[claim.task_id] = claim.lock
        return claim

    def give_back(self, claim: Claim, reason: str) -> None:
        """Release a claim: its lock is void, and its task is as before."""

        def release(now: StoreTime) -> None:
            self._store.lock_rows(Rows(tasks=[claim.task_id]))
            self._store.begin_ending(claim.run_uid, Outcome.RELEASED, reason, now=now)
            settle_all_abandoned(self._store, now)

        remedy = "see `dispatcher show`; otherwise it is `lost` when its lease expires"
        commits.change(self._store, release, remedy=remedy)

    def heartbeat(self, task_id: int, lock: str | None, **facts: object) -> Renewed | Refused:
        beat = self._request("heartbeat", task_id, lock, **facts)
        assert isinstance(beat, Beat)
        return commits.change(
            self._store,
            lambda now: self._store.heartbeat([beat], now=now)[0],
            remedy="work on and beat again",
        )

    def declare(
        self, op: str, task_id: int, lock: str | None, **facts: object
    ) -> Accepted | Refused:
        """Declare an end: `succeed` or `fail`. See `Client.complete` and `Client.fail`."""
        declaration = self._request(op, task_id, lock, **facts)
        assert isinstance(declaration, Declaration)

        def declare(now: StoreTime) -> Accepted | Refused:
            self._store.lock_rows(Rows(tasks=[task_id]))
            answer = self._store.declare(declaration, now=now)
            settle_all_abandoned(self._store, now)
            return answer

        remedy = "declare the same again, which does no harm"
        return commits.change(self._store, declare, remedy=remedy)

    def _claim(
        self, queue: str, task_id: int | None, lease_ttl_ms: int | None, now: StoreTime
    ) -> Claim | None:
        from uuid import uuid4  # noqa: PLC0415 - no submit needs it

        if task_id is not None:
            self._store.lock_rows(Rows(tasks=[task_id]))
        self._store.watch_clock()
        settle_all_abandoned(self._store, now)
        self._store.move_due(limit=DUE_BATCH, now=now)
        self._store.give_up(limit=DUE_BATCH, now=now)
        self._store.resolve(limit=DUE_BATCH, now=now)
        if self._store.next_due_or_keys()[1]:
            self._store.give_keys(limit=DUE_BATCH)
        return self._store.claim_local(
            queue,
            owner=f"{LOCAL}{uuid4()}",
            output_dir=str(self._config.output_dir),
            task_id=task_id,
            lease_ttl_ms=lease_ttl_ms,
            labels=self._config.labels,
            limits={name: one.rule for name, one in self._config.limits.items()},
            now=now,
        )

    def _is_ready(self, queue: str, task_id: int | None) -> bool:
        """Return whether a task is ready that a claim did not find behind many damaged ones."""
        if task_id is not None:
            return False
        with self._store.snapshot():
            first = self._store.foremost(TaskState.READY, queue=queue, limit=FOREMOST)
        has = self._config.labels.items()
        if is_ready := any(not task.takes and task.requires.items() <= has for task in first):
            sleep(PAUSE)
        return is_ready

    def _admit_accepted(self) -> bool:
        """Make tasks of accepted bulk submits, as a daemon does; return whether there were any."""
        with self._store.snapshot():
            if not self._store.coming():
                return False
        from dispatcher import bulk  # noqa: PLC0415 - hardly ever needed

        turns = bulk.Turns(self._store, self._config.state_dir)
        steps = takewhile(bool, (bulk.continue_silent(self._store, turns) for _ in range(STEPS)))
        return any([*steps])

    def _paused(self, queue: str, task_id: int | None) -> PausedQueue | None:
        """Return the paused queue that keeps a task, or any of a queue, from being claimed."""
        if task_id is not None:
            task = self._store.task(task_id, payload=False)
            if task is None or task.state is not TaskState.READY:
                return None
            queue = task.queue
        return next((one for one in self._store.paused_queues() if one.queue == queue), None)

    def _request(
        self, op: str, task_id: int, lock: str | None, **facts: object
    ) -> Beat | Declaration:
        """Return a worker's request, within the limits of the worker socket."""
        if lock is None:
            lock = self._locks.get(task_id) or os.environ.get("DISPATCHER_CLAIM_LOCK")
        if not lock:
            raise NoLock(
                f"no lock for task {task_id}, so nothing was written: give the lock that `claim`"
                " printed (--lock, --lock-file or $DISPATCHER_CLAIM_LOCK)"
            )
        return validated_message(op, task_id, lock, **facts)


def settle_all_abandoned(store: Store, now: StoreTime) -> None:
    """Settle ended claims that no daemon needs to settle."""
    if not store.abandoned(limit=1, now=now):
        return
    from random import SystemRandom  # noqa: PLC0415 - hardly ever needed, and slow to import

    from dispatcher.supervisor import abandoned  # noqa: PLC0415

    rng = SystemRandom()
    while abandoned.settle_abandoned(store, rng=rng, now=now):
        pass
