"""What the parts of the supervisor share: settings, memory, and one transaction's work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dispatcher import wire
from dispatcher.daemon_report import StrandedReport
from dispatcher.execution import Claim, Limits, OpenRun
from dispatcher.executor_api import StartSettings
from dispatcher.model import Liveness
from dispatcher.policy import RetryPolicy
from dispatcher.supervisor.figures import Figures
from dispatcher.supervisor.pause import Pause
from dispatcher.times import NEVER, Instant, StoreTime
from dispatcher.wire import RunUid
from dispatcher.words import Accepted, Beat, Declaration, Note, Refused, Renewed

#: Seconds that an executor waits beyond the limit: a daemon that is back in time gets to say so.
ABSENCE_SLACK = 2.0

#: Seconds from now that stand for "never": it overrides a limit that was told before.
UNLIMITED = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSettings:
    """What the configuration tells the supervisor. Durations in seconds."""

    node_id: str
    hostname: str
    slots: int
    output_dir: str
    start: StartSettings
    retry: RetryPolicy
    poll: float = 1.0
    drain_timeout: float = 60.0
    until_idle: bool = False
    """Stop when no task is ready, scheduled or running, but in queues for claims by hand."""
    reap_interval: float = 5.0
    absence_limit: float | None = None
    """How long runs may go on with no daemon; None: for ever."""
    takeover_margin: float = 15.0
    retention: float | None = None
    """How long what is finished is kept; None: for ever."""
    concurrency: Mapping[str, int] = field(default_factory=dict)
    """How many tasks of a queue run here at once, for queues with a limit."""

    @property
    def by_hand(self) -> tuple[str, ...]:
        """The queues from which nothing is claimed here."""
        return tuple(queue for queue, most in self.concurrency.items() if most == 0)

    def stands_until(self, now: StoreTime) -> StoreTime | None:
        """Return until when claims stand that are confirmed now; None: for ever.

        Later than `kill_deadlines` by a margin for the clocks; each run's kill grace comes on top.
        """
        if self.absence_limit is None:
            return None
        ahead = self.absence_limit + ABSENCE_SLACK + self.takeover_margin
        return StoreTime(now + round(ahead * 1000))

    def kill_deadlines(self, at: Instant) -> dict[str, float]:
        """Return when the executor ends runs by itself that were confirmed at this instant."""
        if self.absence_limit is None:
            return {wire.EndedBy.ABSENCE: at + UNLIMITED}
        return {wire.EndedBy.ABSENCE: at + self.absence_limit + ABSENCE_SLACK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The deadlines of a run with time-outs, and what was seen of its progress so far."""

    run_by: Instant = NEVER
    start_by: Instant = NEVER
    stall_by: Instant = NEVER
    look_by: Instant = NEVER
    """When to look at the output again, for the case that it grows."""
    total_by: Instant = NEVER
    longest: Instant = NEVER
    """To when the worker itself may move `run_by`."""
    written: tuple[int, float] = (0, 0.0)
    """The version of its output that was seen last."""
    progressed_at: StoreTime | None = None

    @property
    def due(self) -> Instant:
        """When to look at the run again."""
        return min(self.run_by, self.start_by, self.stall_by, self.look_by, self.total_by)

    def extended(self, until: Instant) -> Watch:
        """Return it with the time that the worker asked for, as far as it may have it."""
        run_by = min(until, self.longest)
        return self if run_by <= self.run_by else replace(self, run_by=run_by)


@dataclass(slots=True, kw_only=True)
class LiveRun:
    """An open run of this node, in memory: it holds a slot."""

    task_id: int
    run_id: int
    attempt: int
    fence: int
    queue: str
    liveness: Liveness
    lease_ttl: float
    """Seconds."""
    limits: Limits
    kill_grace: float | None = None
    """Seconds; None of a run that was opened by hand."""
    watch: Watch | None = None
    asks_until: Instant | None = None
    """Until when its worker asked to go on, beyond its run time-out."""
    exit_by: Instant | None = None
    """When a worker that declared its end must be gone by itself."""
    pid: int | None = None
    turned_away_at: Instant | None = None
    """When its worker last spoke and the store did not take it."""
    told_to_end_at: Instant | None = None
    hurried: bool = False
    unkillable: str | None = None
    """Why it is not gone although SIGKILL was sent; None: nothing says so."""
    unsignalled: str | None = None
    """Which of its executor may not be signalled; None: nothing says so."""

    @classmethod
    def of(cls, run: Claim | OpenRun) -> LiveRun:
        """Return the memory of a claim just made, or of a run found open."""
        return cls(
            task_id=run.task_id,
            run_id=run.run_id,
            attempt=run.attempt,
            fence=run.fence,
            queue=run.queue,
            liveness=run.liveness,
            lease_ttl=run.lease_ttl_ms / 1000,
            limits=run.limits,
            kill_grace=None if run.kill_grace_ms is None else run.kill_grace_ms / 1000,
            pid=run.pid if isinstance(run, OpenRun) else None,
        )

    @property
    def told_to_end(self) -> bool:
        """Whether the executor was told to end it."""
        return self.told_to_end_at is not None

    def set_watch(self, watch: Watch | None) -> None:
        """Go by other deadlines; None: watch no more."""
        self.watch = watch

    def ids(self) -> dict[str, object]:
        """Return what names this run in every log line."""
        return {
            "task_id": self.task_id,
            "run_id": self.run_id,
            "attempt": self.attempt,
            "fence": self.fence,
            "queue": self.queue,
            "pid": self.pid,
        }


@dataclass(frozen=True, slots=True)
class Request:
    """A worker's words, and where the answer goes: after the commit, with the store's time.

    None instead of an answer: the store did not take it, and the worker may ask again.
    """

    words: Beat | Note | Declaration
    answer: Callable[[Renewed | Accepted | Refused | None, StoreTime], None]
    pid: int | None = None
    """Of who said it; None: it came by the executor."""


@dataclass(slots=True)
class Memory:
    """What the daemon knows without asking. It changes only after a commit, and between ticks."""

    settings: SupervisorSettings
    """The one place where they stand, so that no tick goes by two of them."""
    live: dict[RunUid, LiveRun] = field(default_factory=dict)
    surplus: set[RunUid] = field(default_factory=set)
    """Living runs that the store does not know, until they are gone: nothing starts beside them,
    as one may be of the task that comes next. Without the unkillable: those may be for ever."""
    stranded: dict[RunUid, StrandedReport] = field(default_factory=dict)
    """Open runs for which no executor answers, and of which something may live on this host."""
    hello: wire.Hello | None = None
    """The executor's greeting, once store and executor agree; None while there is none."""
    shut: str | None = None
    """Why workers cannot reach their sockets; None: as far as we know they can."""
    pause: Pause = field(default_factory=Pause)
    figures: Figures = field(default_factory=Figures)

    @property
    def living(self) -> int:
        """How many runs are known to have started and live."""
        return sum(live.pid is not None for live in self.live.values())


@dataclass(slots=True)
class Turn:
    """One transaction: its two times, and what follows its commit."""

    now: StoreTime
    at: Instant
    gap: float = 0.0
    """Seconds since the last commit before it."""
    caught_up: bool = True
    """Whether all was heard that had been said by then: nothing is decided by time otherwise."""
    started: dict[RunUid, wire.Started] = field(default_factory=dict)
    """Starts not written yet: one whose exit follows in the same turn needs no write of its own."""
    extended: dict[RunUid, Instant] = field(default_factory=dict)
    """Until when runs ask to go on: what memory knows of it only after the commit."""
    closed: set[RunUid] = field(default_factory=set)
    abandoned: bool = False
    """Whether a claim was ended that is not this node's: settle it now, not at the next scan."""
    claimless: bool = False
    """Whether host or executor were found unfit in this turn: claim nothing."""
    again: bool = False
    """Whether more is due at once than one transaction should hold."""
    effects: list[Callable[[], None]] = field(default_factory=list)

    def after(self, effect: Callable[[], None]) -> None:
        """Do something outside the store after the commit, in order; not at all without one."""
        self.effects.append(effect)
