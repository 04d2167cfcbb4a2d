"""What the parts of the supervisor share: settings, memory, and one transaction's work."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from dispatcher import wire
from dispatcher.daemon_report import LockReport, StrandedReport
from dispatcher.execution import NONE_HELD, BegunEnding, Held
from dispatcher.executor_api import Event, ExecutorApi, StartSettings
from dispatcher.named_limits import Rule
from dispatcher.schedules import Schedules
from dispatcher.store.api import SupervisorStore
from dispatcher.supervisor.figures import Figures
from dispatcher.supervisor.live_runs import LiveRuns
from dispatcher.supervisor.pause import Pause
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.stop import Stopping
from dispatcher.times import Instant, StoreTime, instant_of, store_time_of
from dispatcher.wire import RunUid
from dispatcher.words import Accepted, Beat, Declaration, Invalid, Note, Refused, Renewed

#: Seconds that an executor waits beyond the limit, so that a daemon back in time can renew it.
ABSENCE_SLACK = 2.0

#: Seconds that mean "never" in a kill deadline, to override a limit that was sent before.
UNLIMITED = 1e9


class SupervisorSettings(Struct, frozen=True, kw_only=True):
    """What the supervisor takes from the configuration. Durations in seconds."""

    node_id: str
    hostname: str
    slots: int
    output_dir: str
    start: StartSettings
    listen: str | None = None
    """Where other nodes read the output of runs."""
    kill_grace: float = 10.0
    """The longest that a run gets which the store does not know."""
    poll: float = 1.0
    drain_timeout: float = 60.0
    until_idle: bool = False
    """Stop when no task is ready, scheduled or running, except in queues for local claims."""
    reap_interval: float = 5.0
    absence_limit: float | None = None
    """How long runs may go on without a daemon; None: for ever."""
    takeover_margin: float = 15.0
    retention: float | None = None
    """How long finished tasks are kept; None: for ever."""
    concurrency: Mapping[str, int] = msgspec.field(default_factory=dict)
    """How many tasks of a queue run here at once, for queues with a limit."""
    weights: Mapping[str, int] = msgspec.field(default_factory=dict)
    """How many tasks of a queue are claimed in its turn, for queues with more than one."""
    limits: Mapping[str, Rule] = msgspec.field(default_factory=dict)
    """The named limits that tasks may take, and those of queues on all nodes."""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    """What tasks may require of this node."""
    schedules: Schedules | None = None
    session: NodeSession | None = None
    """None: the store is embedded, and this node alone in it."""

    @property
    def session_uid(self) -> str:
        """The session as the store has it."""
        return "" if self.session is None else self.session.uid

    @property
    def by_hand(self) -> tuple[str, ...]:
        """The queues from which nothing is claimed here."""
        return tuple(queue for queue, limit in self.concurrency.items() if limit == 0)

    def takeover_at(self, now: StoreTime) -> StoreTime | None:
        """Return from when others may take the claims that are renewed now; None: never.

        Later than `kill_deadlines` by a margin for the clocks; the store adds each run's kill
        grace.
        """
        ahead_ms = self.unconfirmed_ms
        return None if ahead_ms is None else StoreTime(now + ahead_ms)

    @property
    def unconfirmed_ms(self) -> int | None:
        """How long an unconfirmed claim counts, its kill grace apart; None: for ever."""
        if self.absence_limit is None:
            return None
        return round((self.absence_limit + ABSENCE_SLACK + self.takeover_margin) * 1000)

    def kill_deadlines(self, at: Instant) -> dict[str, float]:
        """Return when the executor ends, by itself, runs that are renewed now."""
        if self.absence_limit is None:
            return {wire.EndedBy.ABSENCE: at + UNLIMITED}
        return {wire.EndedBy.ABSENCE: at + self.absence_limit + ABSENCE_SLACK}


class Request(Struct, frozen=True):
    """A worker's message, and the reply to call after the commit, with the store's time.

    The reply is None if the store did not take the message; the worker may send it again.
    """

    message: Beat | Note | Declaration
    answer: Callable[[Renewed | Accepted | Refused | Invalid | None, StoreTime], None]
    pid: int | None = None
    """The sender's; None: the executor forwarded it."""


@dataclass(slots=True)
class Memory:
    """What the daemon knows without a query. It changes only after a commit or between ticks."""

    settings: SupervisorSettings
    """The only copy, so that no tick uses two versions."""
    live: LiveRuns = field(default_factory=LiveRuns)
    surplus: set[RunUid] = field(default_factory=set)
    """Living runs that the store does not know. Nothing is claimed until they are gone, as one may
    belong to the next task. Without the unkillable ones, which may never be gone."""
    stranded: dict[RunUid, StrandedReport] = field(default_factory=dict)
    """Open runs that no executor knows, of which something may live on this host."""
    held: Held = NONE_HELD
    """What others had locked when that was looked at last; nothing unless it made a tick fail."""
    locked: LockReport | None = None
    """What of that is reported; None: nothing is, or was only for a moment."""
    uncompared: set[RunUid] = field(default_factory=set)
    """Open runs that were locked when an executor greeted us: another greeting compares them."""
    hello: wire.Hello | None = None
    """The greeting of the executor whose runs are reconciled; None: there is none."""
    workers_unreachable: str | None = None
    """Why workers cannot reach their sockets; None: no such report."""
    claims_postponed: str | None = None
    """Why nothing is claimed after a failover; None: claims go on."""
    pause: Pause = field(default_factory=Pause)
    figures: Figures = field(default_factory=Figures)
    stopping: Stopping = field(default_factory=Stopping)

    def is_served_by(self, executor: ExecutorApi) -> bool:
        """Return whether the executor whose runs were reconciled still answers."""
        same = self.hello is not None and self.hello is executor.greeting
        return same and executor.answering

    @property
    def longest_ending(self) -> float:
        """Seconds from the first signal to a run's end, at most, by its graces."""
        settings, grace = self.settings, self.live.longest_grace
        return (settings.kill_grace if grace is None else grace) + settings.start.leftover_grace


class Shared(Struct, frozen=True):
    """What the parts of the supervisor work with."""

    store: SupervisorStore
    executor: ExecutorApi
    memory: Memory
    rng: random.Random


@dataclass(slots=True)
class Turn:
    """One transaction: its two times, and what follows its commit."""

    now: StoreTime
    at: Instant
    gap: float = 0.0
    """Seconds since the previous commit."""
    caught_up: bool = True
    """Whether all input that had arrived by now is in it: if not, no deadline is judged."""
    looks: bool = True
    """Whether it searches for what others have written; see `looks.Looks`."""
    held: Held = NONE_HELD
    """What others have locked, and this transaction leaves out."""
    kept: list[Event] = field(default_factory=list)
    """Events that wait for such rows."""
    pending_notices: dict[RunUid, wire.Notice] = field(default_factory=dict)
    pending_exits: dict[RunUid, wire.Exit] = field(default_factory=dict)
    pending_endings: dict[RunUid, BegunEnding] = field(default_factory=dict)
    """What workers and executor reported of runs and is not written yet, all of a kind at once."""
    pending_starts: dict[RunUid, wire.Started] = field(default_factory=dict)
    """Starts not written yet: a start whose exit follows in the same turn needs no write."""
    pending_ends: dict[RunUid, wire.Exited | wire.StartFailed] = field(default_factory=dict)
    """Ends not settled yet: those of a turn are settled together."""
    extended: dict[RunUid, Instant] = field(default_factory=dict)
    """The extensions requested in this turn; memory has them only after the commit."""
    closed: set[RunUid] = field(default_factory=set)
    doubted: set[RunUid] = field(default_factory=set)
    """Runs of which something was reported that changed no row: they may be lost."""
    abandoned: bool = False
    """Whether a claim that is not this node's has ended: settle it now, not at the next scan."""
    claims_blocked: bool = False
    """Whether host or executor were found unfit in this turn: claim nothing."""
    pauses: bool = False
    """Whether it has recorded that the node's pause begins."""
    again: bool = False
    """Whether more is due at once than one transaction should hold."""
    effects: list[Callable[[], None]] = field(default_factory=list)

    def follow(self, before: Turn) -> None:
        """Go on with what an earlier transaction of the same tick has found."""
        self.gap = max(self.gap, before.gap)
        self.abandoned, self.claims_blocked = before.abandoned, before.claims_blocked

    def instant_of(self, moment: StoreTime | None) -> Instant:
        """Return the instant of a store time; see `times.instant_of`."""
        return instant_of(moment, now=self.now, at=self.at)

    def store_time_of(self, moment: float) -> StoreTime:
        """Return the store time of a past instant."""
        return store_time_of(Instant(moment), now=self.now, at=self.at)

    def after(self, effect: Callable[[], None]) -> None:
        """Call this after the commit, in order; never if the commit fails."""
        self.effects.append(effect)
