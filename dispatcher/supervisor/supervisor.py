"""The deciding part: one synchronous tick over what happened and what is due.

A tick is a list of operations in a fixed order, run in one transaction. An operation writes to the
store and puts on the `Turn` what may only happen after the commit: messages, log lines, changes of
memory. So a failed commit leaves no trace outside the store, and the tick can be repeated.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Callable, Collection, Sequence
from functools import partial

import structlog

from dispatcher import wire
from dispatcher.daemon_report import DaemonReport
from dispatcher.errors import CommitUnknown, StoreRefused, StoreUnavailable
from dispatcher.execution import OpenRun
from dispatcher.executor_api import Connected, Disconnected, Event, ExecutorApi
from dispatcher.model import Node, Outcome
from dispatcher.store.api import Store
from dispatcher.supervisor.absence import Absence
from dispatcher.supervisor.admission import Admission
from dispatcher.supervisor.alarm import Alarm
from dispatcher.supervisor.chores import Chore
from dispatcher.supervisor.claimer import Claimer
from dispatcher.supervisor.clock import ClockWatch
from dispatcher.supervisor.figures import Figures
from dispatcher.supervisor.listener import Listener
from dispatcher.supervisor.outage import Outage
from dispatcher.supervisor.reaper import Reaper
from dispatcher.supervisor.reconcile import exited
from dispatcher.supervisor.recorder import Recorder
from dispatcher.supervisor.report import daemon_report
from dispatcher.supervisor.retention import Files, Retention
from dispatcher.supervisor.stranded import StrandedRuns
from dispatcher.supervisor.timeouts import Timeouts
from dispatcher.supervisor.turn import LiveRun, Memory, Request, SupervisorSettings, Turn
from dispatcher.times import LONG_AGO, NEVER, Instant, instant_of

log = structlog.get_logger()

#: Scheduled tasks moved to ready in one transaction. Bounds how long a worker waits for its answer.
DUE_BATCH = 500

#: Seconds between writes of the node's row: with claims, and without.
SEEN_INTERVAL = (5.0, 60.0)

#: Seconds beyond the kill ladder after which a drain leaves behind what does not end.
DRAIN_PATIENCE = 10.0

Operation = Callable[[Turn], None]


class Stop(enum.StrEnum):
    """How the daemon is asked to go."""

    LEAVE = "leave"
    """Claim no more and go; workers live on."""
    DRAIN = "drain"
    """Claim no more, wait for the workers for a while, end the rest."""
    HURRY = "hurry"
    """End every worker at once."""


class Supervisor:
    """Claims, starts, ends and settles, on one node."""

    def __init__(
        self,
        store: Store,
        executor: ExecutorApi,
        settings: SupervisorSettings,
        *,
        rng: random.Random,
        files: Files | None = None,
    ) -> None:
        self._store = store
        self._executor = executor
        self._memory = Memory(settings)
        self._timeouts = Timeouts(store, executor, self._memory)
        self._listener = Listener(store, self._memory)
        stranded = StrandedRuns(store, executor, self._memory, rng=rng)
        self._recorder = Recorder(
            store,
            executor,
            self._memory,
            self._timeouts,
            self._listener,
            stranded=stranded,
            rng=rng,
        )
        self._claimer = Claimer(store, executor, self._memory)
        self._reaper = Reaper(store, executor, self._memory)
        self._absence = Absence(store, executor, self._memory, stranded, rng=rng)
        self._clock = ClockWatch(store, self._memory)
        self._chores = (
            Chore(store, "bulk submits", Admission(store)),
            Chore(store, "retention", Retention(store, self._memory, files)),
        )
        self._inbox: list[Event] = []
        self._stop: Stop | None = None
        self._stop_by = LONG_AGO
        self._outage = Outage()
        self._scheduled = Alarm(NEVER)
        self._committed_at: Instant | None = None
        self._seen_at = LONG_AGO
        self._idle = False
        self._nothing_open = False
        """Whether the store has no open run of this node, and no executor comes that may."""
        self._again = False
        self._caught_up = True

    def reconfigure(self, settings: SupervisorSettings) -> None:
        """Go by other settings from the next tick on. Node, output and executor stay the same."""
        self._memory.settings = settings
        self._seen_at = LONG_AGO

    def stop(self, how: Stop, *, at: Instant) -> None:
        """Take note of a request to go. A second one hurries a drain; to leave needs no hurry."""
        if self._stop is not Stop.LEAVE:
            self._stop = how if self._stop is None else Stop.HURRY
        drains = self._stop is Stop.DRAIN
        timeout = self._memory.settings.drain_timeout if drains else 0.0
        self._stop_by = Instant(at + timeout)
        runs = len(self._memory.live)
        message = {
            Stop.LEAVE: "leaves at once; what runs goes on",
            Stop.DRAIN: f"waits up to {timeout:g} s for what runs; once more ends it at once",
            Stop.HURRY: "ends what runs at once",
        }[self._stop]
        log.info("daemon.stopping", how=self._stop, runs=runs, timeout_s=timeout, message=message)

    def tick(
        self,
        events: Sequence[Event],
        requests: Sequence[Request] = (),
        *,
        caught_up: bool = True,
        at: Instant,
    ) -> Instant:
        """Do everything that is due, in one transaction, and say when to be called again.

        Deferrable work follows in transactions of its own.

        `caught_up` is whether events and requests are complete: if not, no deadline is judged.
        Events that the store did not take are kept for the next tick; workers are asked to retry.
        Raises `StoreUnusable`.
        """
        self._inbox.extend(events)
        if self._outage.retry_at is not None and at < self._outage.retry_at:
            self._listener.turn_away(requests, at=at)
            return self._outage.retry_at
        self._again, self._caught_up = False, caught_up
        unanswered = list(requests)
        try:
            self._perform(unanswered, at)
        except (StoreUnavailable, CommitUnknown) as error:
            self._listener.turn_away(unanswered, at=at)
            if isinstance(error, CommitUnknown):
                self._doubt()
            if self._outage.begins(at=at):
                log.warning("store.unavailable", error=str(error))
        else:
            if (silent_for := self._outage.ends(at=at)) is not None:
                log.info("store.recovered", silent_for_s=silent_for)
            for chore in self._chores:
                chore.do(at)
        return self._deadline(at)

    def is_over(self, *, at: Instant) -> bool:
        """Tell whether nothing is left to do here, or nothing that may be waited for."""
        if self._stop is None:
            return self._idle and self.leaves_nothing_behind
        if self._stop is Stop.LEAVE or self.leaves_nothing_behind or self._nothing_open:
            return True
        patience = Instant(self._stop_by + self._longest_ladder() + DRAIN_PATIENCE)
        if at < patience:
            return False
        return not self._answers() or self._executor.has_answered(since=patience)

    @property
    def leaves_nothing_behind(self) -> bool:
        """Whether the executor that is there has no run of ours, alive or unforgotten."""
        return self._answers() and not self._memory.live and not self._memory.surplus

    def log_left_behind(self) -> None:
        """Log each run that a drain waited for in vain."""
        if self._stop in (Stop.DRAIN, Stop.HURRY):
            for live in self._memory.live.values():
                log.error("run.left_behind", **live.ids())

    @property
    def open_runs(self) -> Collection[wire.RunUid] | None:
        """The runs of this node that are not closed; None while that is not known."""
        memory = self._memory
        return None if memory.hello is None else memory.live.keys() | memory.stranded.keys()

    def _longest_ladder(self) -> float:
        start = self._memory.settings.start
        graces = (live.kill_grace or 0.0 for live in self._memory.live.values())
        return max(graces, default=start.kill_grace) + start.leftover_grace

    @property
    def figures(self) -> Figures:
        """What this daemon has counted and measured so far."""
        return self._memory.figures

    @property
    def shortest_lease(self) -> float:
        """The ttl in seconds of the shortest living lease, infinite without one."""
        return min((live.lease_ttl for live in self._memory.live.values()), default=math.inf)

    # One transaction for all, or one for each ---------------------------------------------

    def _perform(self, unanswered: list[Request], at: Instant) -> None:
        """Do all of it; each request leaves the list with its answer."""
        heard = [partial(self._listener.hear, request=request) for request in unanswered]
        recorded = [partial(self._recorder.record, event=event) for event in self._inbox]
        try:
            self._transact([*heard, *recorded, self._recorder.record_starts, *self._duties()], at)
            self._inbox.clear()
            unanswered.clear()
        except StoreRefused:
            self._replay(unanswered, at)

    def _duties(self) -> tuple[Operation, ...]:
        return (
            self._clock.watch,
            self._reaper.keep_leases,
            self._absence.confirm,
            self._listener.overhear,
            self._decide_endings,
            self._tell_endings,
            self._absence.take_over,
            self._timeouts.give_up,
            self._move_due,
            self._fill_slots,
            self._look_around,
        )

    def _transact(self, operations: Sequence[Operation], at: Instant) -> None:
        with self._store.transaction() as now:
            gap = 0.0 if self._committed_at is None else at - self._committed_at
            if self._memory.shut is not None:
                gap = math.inf  # as long as workers cannot speak, we are as good as away
            turn = Turn(now, at, gap, self._caught_up)
            for operation in operations:
                operation(turn)
        self._again = turn.again
        self._committed_at = at
        for effect in turn.effects:
            effect()

    def _replay(self, unanswered: list[Request], at: Instant) -> None:
        """Find what the store refuses, by one transaction for each operation, and go on."""
        while unanswered:
            request = unanswered[0]
            try:
                self._transact([partial(self._listener.hear, request=request)], at)
            except StoreRefused as error:
                log.exception("store.refused", operation="request", error=str(error))
                self._listener.turn_away([request], at=at)
            unanswered.pop(0)
        while self._inbox:
            event = self._inbox[0]
            if isinstance(event, Connected):
                for report in event.runs:
                    if report.state is wire.RunState.GONE:
                        self._record_alone(exited(report, at=at), at)
            self._record_alone(event, at)
            self._inbox.pop(0)
        for duty in self._duties():
            try:
                self._transact([duty], at)
            except StoreRefused as error:
                log.exception("store.refused", operation=duty.__name__, error=str(error))

    def _record_alone(self, event: Event, at: Instant) -> None:
        """Record one event; if the store refuses it, have its task held for an internal error."""
        record = partial(self._recorder.record, event=event)
        try:
            self._transact([record, self._recorder.record_starts], at)
        except StoreRefused as error:
            log.exception("store.refused", operation=type(event).__name__, error=str(error))
            self._condemn(event, f"internal error: {error}", at)

    def _condemn(self, event: Event, reason: str, at: Instant) -> None:
        if isinstance(event, Connected | Disconnected | wire.Stray | wire.Door):
            return
        with self._store.transaction() as now:
            self._store.begin_ending(event.uid, Outcome.HELD, reason, now=now)
        bare = wire.Exited(uid=event.uid, exit=wire.Exit(at=at))
        if isinstance(event, wire.Exited | wire.StartFailed) and event != bare:
            self._record_alone(bare, at)

    def _doubt(self) -> None:
        """Start over from what store and executor say: the tick may have been taken or not."""
        self._memory.hello = None
        self._inbox.clear()
        self._executor.reconnect()
        log.warning("store.reconciling")

    # Duties of every tick -------------------------------------------------------------------

    def _answers(self) -> bool:
        """Whether the executor answers by whose greeting we go: not one whose runs are unread."""
        hello = self._memory.hello
        same = hello is not None and hello is self._executor.greeting
        return same and self._executor.answering

    def _decide_endings(self, turn: Turn) -> None:
        """Decide what time and a stop demand; none of it while nothing could be ended.

        Each by its own deadline, and after a word of the executor's since then: what ended before
        ended by itself.
        """
        if not self._answers() or not turn.caught_up:
            return
        self._reaper.end_the_declared(turn)
        if self._memory.shut is None:
            self._reaper.end_the_lost(turn)
        self._memory.figures.reaped_at = turn.at
        self._timeouts.end_runs(turn)
        if self._stop in (Stop.DRAIN, Stop.HURRY) and self._is_past(self._stop_by, turn):
            for uid, live in self._memory.live.items():
                if not live.told_to_end and uid not in turn.closed:
                    reason = "the daemon stops"
                    self._store.begin_ending(uid, Outcome.RELEASED, reason, now=turn.now)

    def _is_past(self, deadline: Instant, turn: Turn) -> bool:
        return turn.at >= deadline and self._executor.has_answered(since=deadline)

    def _tell_endings(self, turn: Turn) -> None:
        """Tell the executor every ending that it was not told: ours, and the command line's."""
        if not self._answers():
            return
        hurry = self._stop is Stop.HURRY
        for run in self._store.endings(self._memory.settings.node_id):
            known = self._memory.live.get(run.run_uid)
            if known is not None and (not known.told_to_end or (hurry and not known.hurried)):
                turn.after(partial(self._tell_to_end, known, run, turn.at, at_once=hurry))

    def _tell_to_end(self, live: LiveRun, run: OpenRun, at: Instant, *, at_once: bool) -> None:
        assert run.ending is not None
        live.told_to_end_at, live.hurried = live.told_to_end_at or at, at_once
        self._executor.send(wire.End(uid=run.run_uid, reason=run.ending, at_once=at_once))
        log.info("run.ending", ending=run.ending, reason=run.ending_reason, **live.ids())

    def _move_due(self, turn: Turn) -> None:
        moved = self._store.move_due(limit=DUE_BATCH, now=turn.now)
        due_at = instant_of(self._store.next_due(), now=turn.now, at=turn.at)
        turn.again |= moved == DUE_BATCH
        turn.after(partial(self._scheduled.set, due_at))

    def _fill_slots(self, turn: Turn) -> None:
        if self._stop is None and self._answers():
            self._claimer.fill_slots(turn)

    def _look_around(self, turn: Turn) -> None:
        """Write the node's row when it is time, and see whether anything is left to do."""
        interval = SEEN_INTERVAL[0 if self._memory.live else 1]
        if self._memory.hello is not None and turn.at >= self._seen_at + interval:
            self._store.record_node(self._node(self._memory.hello, turn, interval))
            turn.after(partial(self._note_seen, turn.at))
        if self._stop is not None:
            missing = self._memory.hello is None and self._executor.missing
            nothing = missing and not self._store.open_runs(self._memory.settings.node_id)
            turn.after(partial(self._note_open, nothing=nothing))
        if self._memory.settings.until_idle:
            idle = self._memory.hello is not None and self._waits_for_people_only(turn)
            turn.after(partial(self._note_idle, idle=idle))

    def _note_seen(self, at: Instant) -> None:
        self._seen_at = at

    def _note_open(self, *, nothing: bool) -> None:
        self._nothing_open = nothing

    def _note_idle(self, *, idle: bool) -> None:
        self._idle = idle

    def _waits_for_people_only(self, turn: Turn) -> bool:
        """Say whether no task goes on by itself; of paused queues that have some, once."""
        by_hand = self._memory.settings.by_hand
        paused = [one.queue for one in self._store.paused_queues()]
        if self._store.has_unfinished(but=[*by_hand, *paused]):
            return False
        if paused and not self._idle and self._store.has_unfinished(but=by_hand):
            turn.after(partial(log.warning, "queue.left_paused", queues=paused))
        return True

    def _node(self, hello: wire.Hello, turn: Turn, interval: float) -> Node:
        return Node(
            id=self._memory.settings.node_id,
            boot_id=hello.boot_id,
            pid_namespace=hello.pid_namespace,
            hostname=self._memory.settings.hostname,
            slots=self._memory.settings.slots,
            seen_at=turn.now,
            seen_interval_ms=round(interval * 1000),
        )

    # The next tick ----------------------------------------------------------------------------

    def _deadline(self, at: Instant) -> Instant:
        if self._outage.retry_at is not None:
            return self._outage.retry_at
        if self._again:
            return at
        leases = [live.lease_ttl / 4 for live in self._memory.live.values()]
        longest = min([self._memory.settings.poll, *leases])
        pause = self._memory.pause
        alarms = (
            self._scheduled,
            self._reaper.expiry,
            self._timeouts.runs,
            self._timeouts.tasks,
        )
        deadlines = [Instant(at + longest), pause.until, pause.next_trial_at, self._stop_by]
        deadlines += [alarm.at for alarm in alarms]
        deadlines += [self._absence.due, *(chore.due for chore in self._chores)]
        return min(deadline for deadline in deadlines if deadline > at)

    def report(self, *, at: Instant) -> DaemonReport:
        """Return what an operator wants to know about this node."""
        return daemon_report(
            self._memory,
            self._executor,
            full_queues=self._claimer.full_queues(),
            stopping=self._stop,
            store_silent_for=self._outage.silent_for(at),
            postponed={one.name: one.error for one in self._chores if one.error is not None},
            committed_at=self._committed_at,
            at=at,
        )
