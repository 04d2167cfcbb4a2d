"""The lease protocol as a hypothesis state machine: the real store and a plain oracle.

Every step does one operation on both and compares the answers; after every step every row of the
store is compared with the oracle. The invariants, by name in docs/design.md and docs/protocol.md:

- one current claim: lock, lease, owner and run uid are there exactly while a task runs;
- a refused message writes nothing; ok exactly when the expiry is now + ttl afterwards;
- the fence grows by one with each claim; exactly one open run while running; a run closes once;
- expiry means expiry, and no lease reaches further than now + 2 ttl once the reaper has looked;
- declared > ending > exit code;
- an operator's last intent decides where a running task goes, whatever its run's outcome charges.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from msgspec.structs import asdict, replace

from dispatcher import policy, wire
from dispatcher.execution import Claim, RetryPolicy, StartedRun
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.new_task import NewTask
from dispatcher.times import StoreTime
from dispatcher.wire import Exit, RunUid
from dispatcher.words import Accepted, Beat, Declaration, Refused, Renewed
from dispatcher.worker_api import WorkerError
from tests.model import oracle
from tests.model.oracle import RunModel, TaskModel, same_words
from tests.model.twins import KINDS_OF_LOCKS, NODE, Twins

RETRY = RetryPolicy(
    max_deferrals=oracle.MAX_DEFERRALS,
    max_orphans=oracle.MAX_ORPHANS,
    backoff_min_ms=1_000,
    backoff_max_ms=2_000,
    cooldown_ms=1_000,
)
MOST_TASKS = 4

TTLS = st.sampled_from([1_000, 60_000])
TASK = st.integers(0, 3)
#: Time that passes before an operation, also backwards, as if the clock was set.
TIME = st.sampled_from([0, 1, 333, 1_000, 2_500, 60_000, 200_000, -1_000, -3_600_000])
#: How far an operation's `now` may lie behind: a stale one is safe.
LAG = st.sampled_from([0, 0, 0, 1, 400, 5_000])
#: Own and earlier ones more often than the rest.
LOCKS = st.sampled_from([*("own",) * 6, *("earlier",) * 3, *KINDS_OF_LOCKS])
#: A moment that is never left to chance: the very one at which the next lease expires.
AT_EXPIRY = "at the next expiry"
#: A declaration counts only while its run has the lock: most are the rightful worker's.
DECLARERS = st.sampled_from([*("own",) * 12, "earlier", "earlier", *KINDS_OF_LOCKS])
WORDS = st.sampled_from(Declared)
ENDINGS = st.sampled_from(
    [Outcome.LOST, Outcome.TIMED_OUT, Outcome.RELEASED, Outcome.CANCELLED, Outcome.ORPHANED]
)
VERBS = st.sampled_from(
    ["cancel", "hold", "release", "retry", "retry", "delay", "prune", "restart"]
)
EXIT_CODES = st.sampled_from([None, 0, 1, 75, 78, 79])


def any_run(machine: LeaseProtocol) -> bool:
    return any(task.runs for task in machine.tasks.values())


def any_running(machine: LeaseProtocol) -> bool:
    return machine.any_in(TaskState.RUNNING)


class LeaseProtocol(Twins):
    """One node's claims, workers, reaper and operators, one operation after the other."""

    # Submitting and claiming ----------------------------------------------------------------

    @initialize(ttl=TTLS)
    def a_worker_that_runs(self, ttl: int) -> None:
        self.submit(Liveness.WORKER, ttl)
        self.claim(1, 0)

    @precondition(lambda self: len(self.tasks) < MOST_TASKS)
    @rule(liveness=st.sampled_from([Liveness.WORKER, Liveness.WORKER, Liveness.PROCESS]), ttl=TTLS)
    def submit_one(self, liveness: Liveness, ttl: int) -> None:
        self.submit(liveness, ttl)

    def submit(self, liveness: Liveness, ttl: int) -> None:
        task = NewTask(
            command=("true",),
            max_attempts=oracle.MAX_ATTEMPTS,
            lease_ttl_ms=ttl,
            liveness=liveness,
            **asdict(RETRY),
        )
        task_id = self.do("submit", [task], now=self.now())[0].task_id
        assert task_id not in self.tasks
        self.tasks[task_id] = TaskModel(task_id, liveness, ttl, created=self.clock)

    @precondition(lambda self: self.any_in(TaskState.READY))
    @rule(limit=st.integers(1, 2), lag=LAG)
    def claim_some(self, limit: int, lag: int) -> None:
        self.claim(limit, lag)

    def claim(self, limit: int, lag: int) -> None:
        now = StoreTime(self.clock - lag)
        ready = [t for t in self.tasks.values() if t.state is TaskState.READY]
        expected = sorted(ready, key=lambda task: (task.created // 1000, task.id))[:limit]

        claims: list[Claim] = self.do(
            "claim", "default", limit=limit, node=NODE, output_dir="/out", now=now
        )

        assert [task.id for task in expected] == [claim.task_id for claim in claims]
        used = {run.lock for task in self.tasks.values() for run in task.runs}
        for task, claim in zip(expected, claims, strict=True):
            assert claim.lock not in used
            assert len(task.runs) + 1 == claim.fence
            assert task.attempts + 1 == claim.attempt
            assert now + task.ttl == claim.lease_expires_at
            task.claim(RunModel(claim.run_uid, claim.lock, claim.fence, claim.attempt), now)

    @precondition(any_running)
    @rule(number=TASK, lag=LAG)
    def start(self, number: int, lag: int) -> None:
        task = self.pick(number)
        now = StoreTime(self.clock - lag)

        uid = task.run.uid
        recorded = self.do("record_started", [StartedRun(uid=uid, pid=7, at=now)], now=now)

        assert task.running == bool(recorded)
        if recorded:
            task.expires = now + task.ttl

    # Workers' words ---------------------------------------------------------------------------

    @precondition(any_run)
    @rule(number=TASK, kind=LOCKS, progress=st.sampled_from([None, 0.5]), after=TIME, lag=LAG)
    def beat(self, number: int, kind: str, progress: float | None, after: int, lag: int) -> None:
        self.clock += after
        task = self.pick(number)
        now, lock = StoreTime(self.clock - lag), self.a_lock(task, kind)
        before = self.everything()

        task_id = task.id if kind != "no task's" else max(self.tasks) + 1
        beat = Beat(task_id=task_id, lock=lock, progress=progress)
        answer = self.do("heartbeat", [beat], now=now)[0]

        if task_id not in self.tasks:
            assert Refused(WorkerError.UNKNOWN_TASK) == answer
            assert before == self.everything()
        elif task.holds(lock):
            task.beat(progress, now)
            assert Renewed(StoreTime(now + task.ttl)) == answer
        else:
            assert task.refusal(lock) == answer
            assert before == self.everything()

    @precondition(any_run)
    @rule(number=TASK, kind=DECLARERS, word=WORDS, retry=st.booleans())
    def declare(self, number: int, kind: str, word: Declared, *, retry: bool) -> None:
        task = self.pick(number)
        lock = self.a_lock(task, kind)
        words = Declaration(
            task_id=task.id,
            lock=lock,
            word=word,
            retry=retry if word is Declared.FAIL else True,
            reason="why" if word in {Declared.FAIL, Declared.HOLD} else None,
        )
        declared = next((r.declared for r in task.runs if r.lock == lock and r.declared), None)
        before = self.everything()

        answer = self.do("declare", words, now=self.now())

        if declared is None and task.holds(lock):
            task.run.declared = words
            assert Accepted() == answer
            return
        assert before == self.everything()
        if declared is None:
            assert task.refusal(lock) == answer
        elif same_words(declared, words):
            assert Accepted() == answer
        else:
            stands = task.refusal(lock)
            assert Refused(WorkerError.ALREADY_DECLARED, stands.state, stands.attempt) == answer

    # Endings ----------------------------------------------------------------------------------

    @precondition(any_run)
    @rule(number=TASK, ending=ENDINGS)
    def begin_ending(self, number: int, ending: Outcome) -> None:
        task = self.pick(number)
        before = self.everything()

        begun = self.do("begin_ending", task.run.uid, ending, "why", now=self.now())

        assert begun == (task.running and task.ending is None)
        if begun:
            task.ending = ending
        else:
            assert before == self.everything()

    @precondition(any_run)
    @rule(number=TASK, code=st.sampled_from([0, 1, 75]))
    def leader_exits(self, number: int, code: int) -> None:
        task = self.pick(number)

        uid = task.run.uid
        recorded = self.do(
            "record_leader_exits", {uid: Exit(at=0.0, exit_code=code)}, now=self.now()
        )

        assert task.running == recorded
        if recorded:
            task.run.exit_code = code

    @rule(
        after=TIME | st.just(AT_EXPIRY),
        gap=st.sampled_from([0, 0, 0, 0, 2_000, 2**40]),
        renews=st.booleans(),
        lag=st.sampled_from([0, 0, 400]),
    )
    def reap(self, after: int | str, gap: int, lag: int, *, renews: bool) -> None:
        """The daemon's part: now and then renew the leases that it renews; end the expired ones.

        After a gap, which was our own fault, the short leases are renewed once instead.
        """
        expiries = [task.expires for task in self.tasks.values() if task.may_expire]
        if isinstance(after, int):
            self.clock += after
        elif expiries:
            self.clock, lag = min(expiries), 0
        now = StoreTime(self.clock - lag)
        if gap:
            self.spare(gap, now)
        if renews:
            self.renew(now)
        lost = {task.run.uid: task for task in self.tasks.values() if task.expired(now)}
        could_expire = [task.expires for task in self.tasks.values() if task.may_expire]

        found = self.do("expired", NODE, limit=99, now=now)
        earliest = self.do("next_expiry", NODE)
        for run in found:
            assert self.do("begin_ending", run.run_uid, Outcome.LOST, "silent", now=now)

        assert lost.keys() == {run.run_uid for run in found}
        assert not could_expire or (earliest is not None and earliest <= min(could_expire))
        for task in lost.values():
            assert not self.clock < task.expires <= self.clock + task.ttl  # it was not live
            task.ending = Outcome.LOST
        for task in self.tasks.values():
            assert not task.may_expire or now < task.expires <= now + 2 * task.ttl

    def renew(self, now: StoreTime) -> None:
        mine = [task for task in self.tasks.values() if task.running and not task.may_expire]

        assert len(mine) == self.do("renew", NODE, now=now)

        for task in mine:
            task.expires = now + task.ttl

    def spare(self, gap: int, now: StoreTime) -> None:
        short = [t for t in self.tasks.values() if t.running and t.ttl < 2 * gap]

        assert len(short) == self.do("renew_short", NODE, gap_ms=gap, now=now)

        for task in short:
            task.expires = now + task.ttl

    @precondition(any_running)
    @rule(number=TASK, code=EXIT_CODES, lag=LAG)
    def settle(self, number: int, code: int | None, lag: int) -> None:
        """A process tree is gone, as the executor reports it; or nobody knows (None)."""
        running = [task for task in self.tasks.values() if task.running]
        task = running[number % len(running)]
        now = StoreTime(self.clock - lag)
        run = self.do("open_run", RunUid(task.run.uid))
        end = None
        if code is not None:
            end = wire.Exited(uid=run.run_uid, exit=wire.Exit(at=0.0, exit_code=code))
            task.run.exit_code = code
        settlement = policy.settle(run, end, now=now, ended_at=now, rng=self.rng)

        assert self.do("settle", [settlement], now=now)

        assert task.settle(now) is settlement.outcome
        self.settled.append((task.id, settlement))

    @precondition(lambda self: self.settled)
    @rule(number=st.integers(0, 9))
    def settle_again(self, number: int) -> None:
        """The executor repeats itself: a run closes once, and its successor is left alone."""
        _, settlement = self.settled[-1 - number % len(self.settled)]
        before = self.everything()

        assert not self.do("settle", [settlement], now=self.now())
        assert self.do("open_run", settlement.run_uid) is None
        assert before == self.everything()

    # Time, operators, death ---------------------------------------------------------------------

    @precondition(lambda self: self.any_in(TaskState.SCHEDULED))
    @rule(after=TIME)
    def move_due(self, after: int) -> None:
        self.clock += after
        due = dict(self.rows("tasks WHERE state = 'scheduled'", "id, run_at"))
        ready = [task_id for task_id, run_at in due.items() if run_at <= self.clock]

        assert len(ready) == self.do("move_due", limit=99, now=self.now())

        for task_id in ready:
            self.tasks[task_id].state = TaskState.READY

    @precondition(any_run)
    @rule(number=TASK, verb=VERBS)
    def operate(self, number: int, verb: str) -> None:
        task = self.pick(number)
        match verb:
            case "cancel":
                assert task.state is self.do("cancel", task.id, "operator", now=self.now())
                task.cancel(self.clock)
            case "retry":
                assert task.state is self.do("retry", task.id, now=self.now())
                task.retry()
            case "hold":
                assert task.state is self.do("hold", task.id, "operator", now=self.now())
                task.hold()
            case "release":
                assert task.state is self.do("release", task.id, now=self.now())
                task.release()
            case "delay":
                self.delay(task)
            case "prune":
                self.prune()
            case _:
                self.store.close()
                self.store = self.opened()

    def delay(self, task: TaskModel) -> None:
        """Edit a task: only one that starts by itself can be delayed."""
        before = self.do("task", task.id)
        later = replace(before, state=TaskState.SCHEDULED, run_at=StoreTime(self.clock + 1_000))
        starts = task.state in {TaskState.READY, TaskState.SCHEDULED}

        assert starts is self.do("edit", before, later, now=self.now())

        if starts:
            task.state = TaskState.SCHEDULED

    def prune(self) -> None:
        """Delete what finished first, with all its runs."""
        finished = [t.finished for t in self.tasks.values() if t.finished is not None]
        before = min(finished, default=self.clock) + 1
        old = [t.id for t in self.tasks.values() if (t.finished or before) < before]

        assert len(old) == self.do("prune", before=StoreTime(before), limit=99).tasks

        self.tasks = {task_id: t for task_id, t in self.tasks.items() if task_id not in old}
        self.settled = [(task_id, s) for task_id, s in self.settled if task_id not in old]
