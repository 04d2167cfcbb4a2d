"""The open runs of this node in memory, counted and sorted: no tick has to look at all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace

from dispatcher.execution import Claim, Limits, OpenRun
from dispatcher.least import Least
from dispatcher.model import Liveness
from dispatcher.times import NEVER, Instant, StoreTime
from dispatcher.wire import RunUid
from dispatcher.words import Declaration


class Watch(Struct, frozen=True, kw_only=True):
    """The deadlines of a run with time-outs, and its progress seen so far."""

    run_by: Instant = NEVER
    start_by: Instant = NEVER
    stall_by: Instant = NEVER
    look_by: Instant = NEVER
    """When to look again whether the output has grown."""
    total_by: Instant = NEVER
    longest: Instant = NEVER
    """To when the worker itself may move `run_by`."""
    written: tuple[int, float] = (0, 0.0)
    """The version of the output that was seen last."""
    progressed_at: StoreTime | None = None

    @property
    def due(self) -> Instant:
        return min(self.run_by, self.start_by, self.stall_by, self.look_by, self.total_by)

    def extended(self, until: Instant) -> Watch:
        """Return the watch with the extension that the worker requested, as far as allowed."""
        run_by = min(until, self.longest)
        return self if run_by <= self.run_by else replace(self, run_by=run_by)


@dataclass(slots=True, kw_only=True)
class LiveRun:
    """An open run of this node, in memory: it holds a slot.

    Once it is among the `LiveRuns`, only their methods change `pid`, `watch`, `exit_by` and what
    was sent to end it.
    """

    uid: RunUid
    task_id: int
    run_id: int
    attempt: int
    fence: int
    queue: str
    liveness: Liveness
    lease_ttl: float
    """Seconds."""
    limits: Limits
    kill_grace: float
    """Seconds."""
    watch: Watch | None = None
    extended_until: Instant | None = None
    """The end of the extension that its worker requested, beyond its run time-out."""
    declaration: Declaration | None = None
    """What its worker declared to this daemon."""
    exit_by: Instant | None = None
    """When a worker that declared its end must have exited."""
    pid: int | None = None
    unrecorded_at: Instant | None = None
    """When its worker last sent a message that the store did not take."""
    end_sent_at: Instant | None = None
    """When the executor was first ordered to end it."""
    at_once_sent: bool = False
    """Whether the order was repeated without the rest of the grace."""
    unkillable: str | None = None
    """Why it lives although SIGKILL was sent; None: no such report."""
    unsignalled: str | None = None
    """Its processes that may not be signalled; None: no such report."""

    @classmethod
    def of(cls, run: Claim | OpenRun) -> LiveRun:
        """Return the memory of a new claim, or of a run found open."""
        return cls(
            uid=run.run_uid,
            task_id=run.task_id,
            run_id=run.run_id,
            attempt=run.attempt,
            fence=run.fence,
            queue=run.queue,
            liveness=run.liveness,
            lease_ttl=run.lease_ttl_ms / 1000,
            limits=run.limits,
            kill_grace=run.kill_grace_ms / 1000,
            pid=run.pid if isinstance(run, OpenRun) else None,
        )

    @property
    def end_sent(self) -> bool:
        """Whether the executor was ordered to end it."""
        return self.end_sent_at is not None

    def ids(self) -> dict[str, object]:
        """Return the fields that identify this run in log lines."""
        return {
            "task_id": self.task_id,
            "run_id": self.run_id,
            "attempt": self.attempt,
            "fence": self.fence,
            "queue": self.queue,
            "pid": self.pid,
        }


class LiveRuns(Mapping[RunUid, LiveRun]):
    """Those of one daemon, by uid. They change only after a commit or between ticks.

    A method that changes a run changes also one that is no longer among them, for the log lines
    that follow; it then counts nowhere.
    """

    def __init__(self) -> None:
        self._runs: dict[RunUid, LiveRun] = {}
        self._of_task: dict[int, tuple[LiveRun, ...]] = {}
        self._in_queue: Counter[str] = Counter()
        self._leases: Least[RunUid] = Least()
        self._graces: Least[RunUid] = Least()
        self._watches: Least[RunUid] = Least()
        self._exits: Least[RunUid] = Least()
        self.going_on: dict[RunUid, LiveRun] = {}
        """Those that the executor was not ordered to end."""
        self.ending_gently: dict[RunUid, LiveRun] = {}
        """Those that it was ordered to end, and not at once."""
        self.living = 0
        """How many are known to have started."""
        self.workers = 0
        """How many have to send heartbeats."""

    def __getitem__(self, uid: RunUid) -> LiveRun:
        return self._runs[uid]

    def __iter__(self) -> Iterator[RunUid]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, uid: object) -> bool:
        return uid in self._runs

    def keys(self) -> KeysView[RunUid]:
        return self._runs.keys()

    def values(self) -> ValuesView[LiveRun]:
        return self._runs.values()

    def items(self) -> ItemsView[RunUid, LiveRun]:
        return self._runs.items()

    # What is known without a look at each -----------------------------------------------------

    def of_task(self, task_id: int) -> tuple[LiveRun, ...]:
        """Return the runs of a task: more than one until it is known which of them is lost."""
        return self._of_task.get(task_id, ())

    def count(self, *, but: Collection[RunUid] = ()) -> int:
        """Return how many there are, apart from some."""
        return len(self._runs) - sum(uid in self._runs for uid in but)

    def in_queues(self, queues: Iterable[str], *, but: Collection[RunUid] = ()) -> dict[str, int]:
        """Return how many there are in each of these queues, apart from some."""
        without = Counter(self._runs[uid].queue for uid in but if uid in self._runs)
        return {queue: self._in_queue[queue] - without[queue] for queue in queues}

    @property
    def shortest_lease(self) -> float:
        """The shortest ttl in seconds; infinite without a run."""
        return self._leases.value

    @property
    def longest_grace(self) -> float | None:
        """The longest kill grace in seconds; None without a run."""
        return -self._graces.value if self._runs else None

    @property
    def watched(self) -> Iterator[LiveRun]:
        """Those with deadlines."""
        return (live for live in self.going_on.values() if live.watch is not None)

    @property
    def watch_due(self) -> Instant:
        """The first deadline of those that the executor was not ordered to end."""
        return Instant(self._watches.value)

    def past_deadlines(self, at: Instant) -> list[LiveRun]:
        """Return those with a deadline up to now that the executor was not ordered to end."""
        return [self._runs[uid] for uid in self._watches.up_to(at)]

    def past_exits(self, at: Instant) -> list[LiveRun]:
        """Return those that must have exited by now, and that it was not ordered to end."""
        return [self._runs[uid] for uid in self._exits.up_to(at)]

    # Changes ----------------------------------------------------------------------------------

    def add(self, live: LiveRun) -> None:
        """Add one that is not among them. A run without an order to end it yet."""
        self._runs[live.uid] = self.going_on[live.uid] = live
        self._of_task[live.task_id] = (*self.of_task(live.task_id), live)
        self._in_queue[live.queue] += 1
        self._leases.set(live.uid, live.lease_ttl)
        self._graces.set(live.uid, -live.kill_grace)
        self.living += live.pid is not None
        self.workers += live.liveness is Liveness.WORKER

    def pop(self, uid: RunUid) -> LiveRun | None:
        """Remove a run, and return it if it was among them."""
        if (live := self._runs.pop(uid, None)) is None:
            return None
        self.going_on.pop(uid, None)
        self.ending_gently.pop(uid, None)
        others = tuple(other for other in self._of_task.pop(live.task_id) if other is not live)
        if others:
            self._of_task[live.task_id] = others
        self._in_queue[live.queue] -= 1
        if not self._in_queue[live.queue]:
            del self._in_queue[live.queue]
        for least in (self._leases, self._graces, self._watches, self._exits):
            least.remove(uid)
        self.living -= live.pid is not None
        self.workers -= live.liveness is Liveness.WORKER
        return live

    def clear(self) -> None:
        """Remove all."""
        for uid in [*self._runs]:
            self.pop(uid)

    def started(self, live: LiveRun, pid: int) -> None:
        """Remember the process of a run."""
        if live is self.get(live.uid):
            self.living += live.pid is None
        live.pid = pid

    def watch(self, live: LiveRun, watch: Watch | None) -> None:
        """Replace the deadlines of a run; None: watch it no longer."""
        live.watch = watch
        if live is self.going_on.get(live.uid):
            self._watches.set(live.uid, NEVER if watch is None else watch.due)

    def expect_exit(self, live: LiveRun, by: Instant) -> None:
        """Remember when a run must have exited."""
        live.exit_by = by
        if live is self.going_on.get(live.uid):
            self._exits.set(live.uid, by)

    def end_sent(self, live: LiveRun, at: Instant, *, at_once: bool) -> None:
        """Remember that the executor was ordered to end a run."""
        live.end_sent_at, live.at_once_sent = live.end_sent_at or at, at_once
        if live is not self.get(live.uid):
            return
        self.going_on.pop(live.uid, None)
        self.ending_gently.pop(live.uid, None)
        if not at_once:
            self.ending_gently[live.uid] = live
        self._watches.remove(live.uid)
        self._exits.remove(live.uid)
