"""A day of a hundred workers in virtual time: which live, which are lost, and when.

The real supervisor, reaper, listener and reconciliation over the real store; workers are lines on
a calendar. Things go wrong all day long: the daemon dies, the executor dies or falls silent, the
store is away, the clock is set, the host sleeps. Whatever happens, `judge_*` holds after it.
"""

import heapq
import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from msgspec.structs import replace

from dispatcher import wire
from dispatcher.errors import StoreUnavailable
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.store.api import Store
from dispatcher.supervisor.turn import Request
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid
from dispatcher.words import Accepted, Beat, Declaration, Invalid, Refused, Renewed
from tests.simulation import SETTINGS, World

TTLS = (1200, 3600)
WORKERS = 100
POLL = 60.0

#: Seconds after which a worker whose beat was not taken retries.
RETRY_AFTER = 120.0

DONE = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.HELD})


@dataclass
class Worker:
    """One run's process, as it means to behave."""

    task_id: int
    uid: RunUid
    lock: str
    ttl: float
    beats: bool
    until: float
    """When it comes to its end; silent ones stop beating then."""
    way: str
    """How: an exit code, a declared word, `silent`."""
    last_beat: float = 0.0
    """When its last beat was accepted, or it started."""
    ended: bool = False
    """Whether the executor received its end."""
    gone: bool = False


class Away:
    """A store that is away when the day requires it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def transaction(self) -> AbstractContextManager[StoreTime]:
        return self._refused() if self.away else self._store.transaction()

    @contextmanager
    def _refused(self) -> Iterator[StoreTime]:
        raise StoreUnavailable("away")
        yield StoreTime(0)


@dataclass
class Day:
    """The calendar, and what was seen on the way."""

    seed: int
    hours: float = 24.0
    make: Callable[..., World] = World
    """Makes the node, and its store."""
    workers: dict[RunUid, Worker] = field(default_factory=dict)
    tasks: dict[int, float] = field(default_factory=dict)
    """Every task's ttl."""
    losses: list[tuple[Worker, float]] = field(default_factory=list)
    refused: int = 0
    beats: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        settings = replace(SETTINGS, slots=WORKERS, poll=POLL)
        self.world = self.make(settings=settings, seed=self.seed)
        self.store = Away(self.world.store)
        self.world.store = self.store  # type: ignore[assignment]
        self.world.fresh_supervisor()
        self.daemon_lives = True
        self.disturbed = 0.0
        """When the last trouble ended that is a reason to spare leases."""
        self.unreported: list[Callable[[], None]] = []
        self._calendar: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._starts = self._read = 0

    @property
    def executor_speaks(self) -> bool:
        return self.world.executor.answering and not self.world.executor.mute

    # The calendar ---------------------------------------------------------------------------

    @property
    def time(self) -> float:
        return self.world.elapsed

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._calendar, (self.time + seconds, next(self._order), action))

    def run(self) -> None:
        """Live through the day and the hours that its last tasks need."""
        self.world.start()
        for _ in range(WORKERS):
            self.submit()
        for seconds, trouble in (
            (2_900, self.daemon_dies),
            (7_100, self.executor_dies),
            (4_300, self.executor_is_silent),
            (3_700, self.store_is_away),
            (6_100, self.clock_is_set),
            (8_900, self.host_sleeps),
        ):
            self.after(self.rng.uniform(0, seconds), partial(self.again, seconds, trouble))
        self._live_until(self.hours * 3600)
        while any(self.world.state(task_id) not in DONE for task_id in self.tasks):
            assert self.time < (self.hours + 48) * 3600, "it never ends"
            self._live_until(self.time + 3600)

    def again(self, every: float, trouble: Callable[[], None]) -> None:
        if self.time < self.hours * 3600:
            if self.daemon_lives and not self.store.away and self.executor_speaks:
                trouble()
            self.after(self.rng.uniform(0.5, 1.5) * every, partial(self.again, every, trouble))

    def _live_until(self, end: float) -> None:
        """Go from one thing to the next, be it the daemon's deadline or the calendar's."""
        while True:
            planned = min(end, self._calendar[0][0] if self._calendar else end)
            due = self.world.deadline - 10_000 if self.daemon_lives else math.inf
            if due <= planned:
                self.world.elapsed = max(self.time, due)
                self.world.settle_down()
            else:
                self.world.elapsed = max(self.time, planned)
                if not self._calendar or self._calendar[0][0] > self.time:
                    return
                heapq.heappop(self._calendar)[2]()
            self.look()

    # Tasks and workers ------------------------------------------------------------------------

    def submit(self) -> None:
        if self.store.away:
            self.after(60, self.submit)
            return
        ttl = self.rng.choice(TTLS)
        liveness = self.rng.choice([Liveness.WORKER, Liveness.WORKER, Liveness.PROCESS])
        task_id = self.world.submit("work", liveness=liveness, lease_ttl_ms=ttl * 1000)
        self.tasks[task_id] = ttl

    def look(self) -> None:
        """Check what the daemon sent the executor since against the promises."""
        executor = self.world.executor
        for start in executor.starts[self._starts :]:
            self._begin(start)
        self._starts = len(executor.starts)
        for message in executor.sent[self._read :]:
            if isinstance(message, wire.End) and message.uid in self.workers:
                self._end(self.workers[message.uid], message.reason)
        self._read = len(executor.sent)

    def _begin(self, start: wire.Start) -> None:
        task_id = int(start.env["DISPATCHER_TASK_ID"])
        twins = [w for w in self.workers.values() if w.task_id == task_id and not w.gone]
        assert not twins, f"task {task_id} has a twin"
        beats = self.world.task(task_id).liveness is Liveness.WORKER
        ways = ["0", "0", "0", "1", "75", "78", *Declared, *(["silent"] * 3 if beats else [])]
        worker = Worker(
            task_id=task_id,
            uid=start.uid,
            lock=start.env["DISPATCHER_CLAIM_LOCK"],
            ttl=self.tasks[task_id],
            beats=beats,
            until=self.time + self.rng.uniform(60, 4 * 3600),
            way=self.rng.choice(ways),
            last_beat=self.time,
        )
        self.workers[start.uid] = worker
        if beats:
            self.after(0, partial(self.beat, worker))
        self.after(worker.until - self.time, partial(self.come_to_an_end, worker))

    def beat(self, worker: Worker) -> None:
        """Beat, and again at ttl / 3: until its time has come, or the kill."""
        if worker.gone or self.time >= worker.until:
            return
        self.send(worker, Beat(task_id=worker.task_id, lock=worker.lock), self.beat)

    def send(
        self,
        worker: Worker,
        words: Beat | Declaration,
        again: Callable[[Worker], None],
    ) -> None:
        """Send it to the daemon if there is one; what was not taken is sent again."""
        answers: list[Renewed | Accepted | Refused | Invalid | None] = []
        if self.daemon_lives:
            self.world.tick(Request(words, lambda answer, _: answers.append(answer)))
            self.look()
        match answers:
            case [Renewed()]:
                assert not worker.ended, "a beat was accepted after the ending"
                self.beats += 1
                worker.last_beat = self.time
                self.after(worker.ttl / 3, partial(again, worker))
            case [Accepted()]:
                worker.last_beat = self.time
            case [Refused()]:
                assert worker.ended, f"a rightful holder was refused: {answers}"
                self.refused += 1
            case _:
                self.after(RETRY_AFTER, partial(again, worker))

    def come_to_an_end(self, worker: Worker) -> None:
        if worker.gone:
            return
        if worker.way == "silent":
            self.judge_silence(worker)
        elif worker.way.isdigit():
            self.exit(worker, int(worker.way))
        else:
            self.declare(worker)
            if self.rng.random() < 0.5:  # the others are ended after their grace
                self.after(self.rng.uniform(0, 9), partial(self.exit, worker, 0))

    def declare(self, worker: Worker) -> None:
        if not worker.gone:
            words = Declaration(task_id=worker.task_id, lock=worker.lock, word=Declared(worker.way))
            self.send(worker, words, self.declare)

    def exit(self, worker: Worker, code: int | None) -> None:
        """Be gone; the executor reports it when it can."""
        if worker.gone:
            return
        worker.gone = True
        if self.executor_speaks:
            self.report(worker, code)
            self.settle_down()
        else:
            self.unreported.append(partial(self.report, worker, code))
        if self.time < self.hours * 3600:
            self.submit()

    def report(self, worker: Worker, code: int | None) -> None:
        if worker.uid in self.world.executor.runs:
            signum = None if code is not None else 9
            self.world.executor.gone(worker.uid, code, at=self.world.at(), signal=signum)

    def settle_down(self) -> None:
        if self.daemon_lives:
            self.world.settle_down()
            self.look()

    def _end(self, worker: Worker, reason: str) -> None:
        if reason == Outcome.LOST and not worker.ended:
            self.judge_loss(worker)
            self.losses.append((worker, self.time - worker.last_beat))
        worker.ended = True
        # An ending takes its time, and a worker may beat meanwhile.
        if worker.beats:
            beat = Beat(task_id=worker.task_id, lock=worker.lock)
            self.after(self.rng.uniform(0, 6), partial(self.send, worker, beat, self.beat))
        self.after(self.rng.uniform(0, 12), partial(self.exit, worker, None))

    # Trouble ------------------------------------------------------------------------------------

    def daemon_dies(self) -> None:
        self.daemon_lives = False
        self.after(self.rng.choice([1, 20, 900, 3_000]), self.daemon_starts)

    def daemon_starts(self) -> None:
        self.daemon_lives = True
        self.disturbed = self.time
        self.world.restart()

    def executor_dies(self) -> None:
        """Its successor ends every survivor before it greets."""
        for worker in self.workers.values():
            worker.gone = True
        self.world.executor.die()
        self.world.settle_down()
        self.after(self.rng.uniform(0, 60), self.executor_starts)

    def executor_starts(self) -> None:
        if not self.daemon_lives:  # it greets any daemon
            return
        self.world.executor.greet()
        self.world.settle_down()

    def executor_is_silent(self) -> None:
        """For long, which the daemon notices, or for so short a time that it does not."""
        if self.rng.random() < 0.5:
            self.world.executor.mute = True
            self.after(10, self.executor_goes_on)
        else:
            self.world.executor.answering = False
            self.after(self.rng.choice([20, 600, 5_000]), self.executor_goes_on)

    def executor_goes_on(self) -> None:
        """With its reports of the time when it could not send them."""
        self.world.executor.answering, self.world.executor.mute = True, False
        self.disturbed = self.time
        for report in self.unreported:
            report()
        self.unreported.clear()
        self.settle_down()

    def store_is_away(self) -> None:
        self.store.away = True
        self.after(self.rng.choice([1, 60, 1_200]), self.store_is_back)

    def store_is_back(self) -> None:
        self.store.away = False
        self.disturbed = self.time + 1.0  # the daemon pings once a second

    def clock_is_set(self) -> None:
        self.world.step_clock(self.rng.choice([3600.0, -3600.0, 2.0, -0.5]))
        self.disturbed = self.time
        self.world.settle_down()
        self.judge_leases()

    def host_sleeps(self) -> None:
        """Everybody's timers stand still; both clocks go on."""
        asleep = self.rng.choice([5.0, 700.0, 7_200.0])
        awake = [worker for worker in self.workers.values() if worker.until > self.time]
        self.world.elapsed += asleep
        self._calendar = [(when + asleep, n, action) for when, n, action in self._calendar]
        for worker in awake:
            worker.until += asleep
        self.disturbed = self.time
        self.world.settle_down()
        self.judge_leases()

    # What must hold -------------------------------------------------------------------------------

    def judge_loss(self, worker: Worker) -> None:
        """Only the silent are lost: not before their ttl, and within a poll after it."""
        assert self.executor_speaks, "nothing could be ended"
        assert worker.beats
        assert worker.way == "silent"
        assert self.time >= worker.until
        assert self.time >= worker.last_beat + worker.ttl - 0.001, "taken before its time"
        latest = max(worker.last_beat, self.disturbed) + worker.ttl + POLL
        assert self.time <= latest, f"found out {self.time - latest} s late"

    def judge_silence(self, worker: Worker) -> None:
        """A silent one is being ended by the time that it must be, whatever came between."""
        if worker.gone or worker.ended:
            return
        latest = max(worker.last_beat, self.disturbed) + worker.ttl + POLL
        able = self.daemon_lives and self.executor_speaks and not self.store.away
        assert self.time <= latest or not able, "nobody ends a silent worker"
        self.after(max(worker.ttl, latest - self.time) + 1, partial(self.judge_silence, worker))

    def judge_leases(self) -> None:
        """No lease lives longer than twice its ttl."""
        now = self.world.now()
        with self.world.store.snapshot():
            runs = [run for task_id in self.tasks for run in self.world.store.runs(task_id)]
        for run in runs:
            if run.outcome is None:
                assert run.lease_expires_at is not None
                assert run.lease_expires_at <= now + 2 * self.tasks[run.task_id] * 1000

    def judge_the_end(self) -> None:
        """Everything is over or explained, counted once, and forgotten."""
        assert {} == self.world.executor.runs
        for task_id in self.tasks:
            task, runs = self.world.task(task_id), self.world.runs(task_id)
            assert task.state in DONE
            assert task.reason
            assert list(range(1, len(runs) + 1)) == [run.fence for run in runs]
            assert all(run.outcome is not None for run in runs)
            assert task.attempts_used <= task.max_attempts
            for run in runs:
                lost = run.outcome is Outcome.LOST
                assert not lost or self.workers[run.uid].way == "silent"
