"""The deciding part: one synchronous tick over what happened and what is due.

A tick is a list of operations in a fixed order, in one transaction. An operation writes to the
store, and puts on the `Turn` what may happen only after the commit: messages, log lines, changes of
memory. A failed commit therefore leaves no trace outside the store, and the tick can be repeated.
"""

import random
from collections.abc import Collection, Sequence
from functools import partial

import structlog
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.daemon_report import DaemonReport
from dispatcher.errors import CommitUnknown, StoreLocked, StoreRefused, StoreWithheld
from dispatcher.executor_api import Event, ExecutorApi
from dispatcher.store.api import Store
from dispatcher.supervisor.absence import Absence
from dispatcher.supervisor.admission import Admission
from dispatcher.supervisor.chores import Chore
from dispatcher.supervisor.claimer import Claimer
from dispatcher.supervisor.clock import ClockWatch
from dispatcher.supervisor.ender import Ender
from dispatcher.supervisor.failover import Failover
from dispatcher.supervisor.figures import Figures
from dispatcher.supervisor.idleness import Idleness
from dispatcher.supervisor.inbox import Inbox
from dispatcher.supervisor.locking import Locking
from dispatcher.supervisor.looks import Looks
from dispatcher.supervisor.node_row import NodeRow
from dispatcher.supervisor.outage import Outage
from dispatcher.supervisor.reaper import Reaper
from dispatcher.supervisor.recorder import Recorder
from dispatcher.supervisor.registry import Registry
from dispatcher.supervisor.replay import Replay
from dispatcher.supervisor.report import age, daemon_report
from dispatcher.supervisor.rest import Rest
from dispatcher.supervisor.retention import Files, Retention
from dispatcher.supervisor.scheduler import Scheduler
from dispatcher.supervisor.settler import Settler
from dispatcher.supervisor.stop import DRAIN_PATIENCE, Stop
from dispatcher.supervisor.stranded import StrandedRuns
from dispatcher.supervisor.timeouts import Timeouts
from dispatcher.supervisor.transactor import FAILURES, FailedOver, Operation, Transactor
from dispatcher.supervisor.turn import Memory, Request, Shared, SupervisorSettings
from dispatcher.supervisor.worker_recorder import WorkerRecorder
from dispatcher.times import LONG_AGO, Instant

log = structlog.get_logger()


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
        self._store, self._executor = store, executor
        self._memory = memory = Memory(settings)
        shared = Shared(store, executor, memory, rng)
        self._transactor, self._timeouts = Transactor(store, memory), Timeouts(shared)
        self._workers = WorkerRecorder(store, memory)
        stranded, settler = StrandedRuns(shared), Settler(shared)
        self._recorder = Recorder(shared, self._timeouts, self._workers, stranded, settler)
        self._claimer, self._reaper = Claimer(shared, settler), Reaper(shared)
        self._ender = Ender(shared, self._reaper, self._timeouts)
        self._failover, self._rest = Failover(shared), Rest(store, executor, memory)
        self._absence = Absence(shared, stranded, self._failover)
        self._locking = Locking(shared, self._reaper, self._absence, self._failover)
        self._clock, self._registry = ClockWatch(store, memory), Registry(store, memory)
        self._node_row = NodeRow(store, memory, self._failover)
        self._idleness, self._looks = Idleness(shared), Looks(shared)
        self._chores = (
            Chore(store, "bulk submits", Admission(store)),
            Chore(store, "retention", Retention(store, memory, files)),
            Chore(store, "schedules", Scheduler(store, memory)),
        )
        self._replay = Replay(store, self._transactor, self._locking, self._recorder, self._workers)
        self._inbox, self._outage = Inbox(), Outage(rng=rng)
        self._has_worked = False  # then what is withheld is an outage
        self._rested_at = LONG_AGO
        """When the last tick was left out."""

    def reconfigure(self, settings: SupervisorSettings) -> None:
        """Use other settings from the next tick on; node, output and executor must be the same."""
        self._memory.settings = settings
        self._node_row.expire()
        self._rest.end()

    def wake(self) -> None:
        """Look, in the next tick, also at the time-outs of tasks that others have changed."""
        self._timeouts.tasks.set(LONG_AGO)

    def stop(self, how: Stop, *, at: Instant) -> None:
        """Record a request to stop; see `Stopping.request`."""
        timeout, runs = self._memory.settings.drain_timeout, len(self._memory.live)
        self._memory.stopping.request(how, drain_timeout=timeout, runs=runs, at=at)

    def tick(
        self,
        events: Sequence[Event],
        requests: Sequence[Request] = (),
        *,
        caught_up: bool = True,
        at: Instant,
    ) -> Instant:
        """Do everything that is due, in one transaction, and return when to be called again.

        Without a transaction if there is nothing to do: see `Rest`. Deferrable work follows in
        transactions of its own.

        `caught_up` is whether events and requests are complete: if not, no deadline is judged.
        Events that the store did not take are kept for the next tick; workers then have to retry.
        Raises `StoreUnusable`, and `ConfigError` once another daemon has this node's identity.
        """
        self._inbox.events.extend(events)
        if self._outage.retry_at is not None and at < self._outage.retry_at:
            self._workers.request_retry(requests, at=at)
            return self._outage.retry_at
        rests = not self._inbox and not requests and caught_up and self._rest.goes_on
        if rests and at < self._rest.until:
            self._rested_at = at
            return self._rest.wake_at(at)
        self._absence.await_others(self._outage.since, at)
        caught_up &= self._inbox.is_short
        self._transactor.begin_tick(caught_up=caught_up)
        if not rests:
            self._rest.end()
        self._work(list(requests), at, rests=rests)
        due = self._next_tick(at, rests=rests)
        is_done = caught_up and not self._transactor.again and self._outage.retry_at is None
        self._rest.begin(due, self._transactor.version if is_done else None)
        return self._rest.wake_at(at) if rests else due

    def _work(self, unanswered: list[Request], at: Instant, *, rests: bool) -> None:
        """Do what is due, and the deferrable work, or plan another try."""
        works = self._registry.has_row
        try:
            if not works:  # what happened is kept, and workers try again
                self._workers.request_retry(unanswered, at=at)
                self._transactor.run([self._registry.register], at)
            else:
                self._attempt(unanswered, self._resting() if rests else self._duties(), at)
        except FAILURES as error:
            if isinstance(error, StoreWithheld) and not self._has_worked:
                raise
            self._inbox.failed(len(unanswered))
            self._workers.request_retry(unanswered, at=at)
            if isinstance(error, CommitUnknown | FailedOver):
                self._inbox.clear()
                self._failover.reconcile(error)
            if self._outage.record_failure(error, at=at):
                log.warning("store.unavailable", error=str(error))
        else:
            self._has_worked |= works
            if (silent_for := self._outage.record_success(at=at)) is not None:
                log.info("store.recovered", silent_for_s=silent_for)
            for chore in self._chores:
                if not rests or chore.due <= at:
                    chore.do(at)

    def leave(self) -> None:
        """Give up this node's row, unless runs of it go on: the next daemon takes it at once."""
        if self.leaves_nothing_behind and not self._memory.stranded:
            self._registry.leave()

    def is_over(self, *, at: Instant) -> bool:
        """Return whether the daemon may exit: nothing is left to do, or nothing worth a wait."""
        if self._memory.stopping.how is None:
            return self._idleness.is_idle and self.leaves_nothing_behind
        if self._memory.stopping.how is Stop.LEAVE or not self._registry.has_row:
            return True
        if self.leaves_nothing_behind or self._idleness.nothing_open:
            return True
        longest = self._memory.longest_ending
        given_up_at = Instant(self._memory.stopping.deadline + longest + DRAIN_PATIENCE)
        if at < given_up_at:
            return False
        executor = self._executor
        return not self._memory.is_served_by(executor) or executor.has_answered(since=given_up_at)

    @property
    def leaves_nothing_behind(self) -> bool:
        """Whether the connected executor has no run of this node, alive or to be forgotten."""
        memory = self._memory
        return memory.is_served_by(self._executor) and not memory.live and not memory.surplus

    def log_left_behind(self) -> None:
        """Log each run that a drain did not see end."""
        if self._memory.stopping.ends_runs:
            for live in self._memory.live.values():
                log.error("run.left_behind", **live.ids())

    @property
    def open_runs(self) -> Collection[wire.RunUid] | None:
        """The open runs of this node; None while they are unknown."""
        memory = self._memory
        return None if memory.hello is None else memory.live.keys() | memory.stranded.keys()

    @property
    def figures(self) -> Figures:
        """What this daemon has counted and measured so far."""
        return self._memory.figures

    @property
    def shortest_lease(self) -> float:
        """The shortest ttl of a live run in seconds; infinite without one."""
        return self._memory.live.shortest_lease

    def report(self, *, at: Instant) -> DaemonReport:
        done_at = self._transactor.committed_at
        return replace(
            daemon_report(self._memory, self._executor, at),
            full_queues=self._claimer.full_queues(),
            store_silent_for_s=self._outage.silent_for(at),
            store_locked=self._outage.is_locked,
            unregistered=self._registry.report(),
            postponed={one.name: one.error for one in self._chores if one.error is not None},
            tick_age_s=None if done_at is None else age(max(done_at, self._rested_at), at),
        )

    def _attempt(self, unanswered: list[Request], duties: Sequence[Operation], at: Instant) -> None:
        """Perform a tick, again without the rows that others have locked if it waited for one."""
        do: Sequence[Operation] = ()
        while do is not duties:  # first the requests beyond what one transaction takes
            do = () if len(unanswered) > self._inbox.most else duties
            try:
                self._perform(unanswered, do, at)
            except StoreLocked:
                self._locking.pass_over()
                self._perform(unanswered, do, at)

    def _perform(self, unanswered: list[Request], duties: Sequence[Operation], at: Instant) -> None:
        """Run all operations; a request leaves the list once it is answered."""
        events, requests = self._inbox.next(), unanswered[: self._inbox.most]
        locked = partial(self._locking.lock, requests=requests, events=events)
        requested = partial(self._workers.record, requests=requests)
        reported = [partial(self._recorder.record, event=event) for event in events]
        kept = (self._recorder.record_ends, self._recorder.record_starts)
        try:
            turn = self._transactor.run([locked, requested, *reported, *kept, *duties], at)
            self._transactor.again |= self._inbox.recorded(turn.kept)
            del unanswered[: len(requests)]
        except StoreRefused:
            self._replay.run(unanswered, self._inbox.events, duties, at)

    def _resting(self) -> tuple[Operation, ...]:
        """Return the duties of a tick that only asks whether there is work."""
        return (
            self._failover.spare_leases,
            self._clock.watch,
            self._absence.renew_takeover_deadlines,
            self._rest.ask,
            self._node_row.write_node_row,
        )

    def _duties(self) -> tuple[Operation, ...]:
        return (
            self._looks.decide,
            self._failover.spare_leases,
            self._clock.watch,
            self._reaper.renew_leases,
            self._absence.renew_takeover_deadlines,
            self._workers.record_cli_declarations,
            self._ender.decide_endings,
            self._ender.send_endings,
            self._absence.take_over,
            self._timeouts.give_up,
            self._claimer.move_due,
            self._failover.await_nodes,
            self._claimer.fill_slots,
            self._node_row.write_node_row,
            self._failover.record_reconciled,
            self._idleness.look_for_work,
            self._looks.remember,
        )

    def _next_tick(self, at: Instant, *, rests: bool) -> Instant:
        if self._outage.retry_at is not None:
            return self._outage.retry_at
        if not self._registry.has_row:
            return self._registry.due(at)
        if self._transactor.again:
            return at
        longest = min(self._memory.settings.poll, self.shortest_lease / 4)
        latest = at + (self._rest.longest if rests else longest)
        pause, stop_by = self._memory.pause, self._memory.stopping.deadline
        instants = [Instant(latest), pause.until, pause.next_trial_at, stop_by, self._locking.due]
        instants += [self._claimer.scheduled.at, self._claimer.retry.at, self._absence.due]
        instants += [self._timeouts.due, self._timeouts.tasks.at, self._reaper.expiry.at]
        instants += [self._node_row.due, self._rest.work_at, *(chore.due for chore in self._chores)]
        return min(instant for instant in instants if instant > at)
