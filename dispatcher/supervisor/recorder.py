"""What the executor says, written down: starts, changes, exits, and a fresh executor's greeting."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from dispatcher import policy, wire
from dispatcher.backoff import Backoff
from dispatcher.execution import OpenRun, Settlement
from dispatcher.executor_api import Connected, Disconnected, Event, ExecutorApi
from dispatcher.store.api import SupervisorStore
from dispatcher.supervisor.listener import Listener
from dispatcher.supervisor.reconcile import Differences, compare
from dispatcher.supervisor.stranded import StrandedRuns
from dispatcher.supervisor.timeouts import Timeouts
from dispatcher.supervisor.turn import LiveRun, Memory, Turn
from dispatcher.times import Instant, StoreTime, store_time_of
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Ticks of /proc/PID/stat in a second.
TICKS = os.sysconf("SC_CLK_TCK")

#: Seconds that a task waits whose previous run still lives here: first, and at most; doubling.
PREDECESSOR_DELAY = (1.0, 60.0)


class Recorder:
    """Writes what happened to runs, and keeps the memory of the live ones true."""

    def __init__(
        self,
        store: SupervisorStore,
        executor: ExecutorApi,
        memory: Memory,
        timeouts: Timeouts,
        listener: Listener,
        *,
        stranded: StrandedRuns,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._executor = executor
        self._memory = memory
        self._timeouts = timeouts
        self._listener = listener
        self._stranded = stranded
        self._rng = rng
        self._postponements: defaultdict[int, Backoff] = defaultdict(
            lambda: Backoff(*PREDECESSOR_DELAY)
        )
        self._recordings: dict[type[Event], Callable[[Turn, Any], None]] = {
            Connected: self._connected,
            Disconnected: self._disconnected,
            wire.Started: self._started,
            wire.StartFailed: self._start_failed,
            wire.Changed: self._changed,
            wire.Exited: self._exited,
            wire.Notice: self._notice,
            wire.Stray: self._stray,
            wire.Door: self._listener.note_door,
        }

    def record(self, turn: Turn, event: Event) -> None:
        """Write down one event of the executor."""
        self._recordings[type(event)](turn, event)

    def record_starts(self, turn: Turn) -> None:
        """Write the starts of this turn that no exit followed."""
        for uid, event in turn.started.items():
            begun = store_time_of(Instant(event.at), now=turn.now, at=turn.at)
            self._store.record_started(uid, pid=event.pid, started_at=begun, now=turn.now)
            turn.after(partial(self._note_started, event, turn.now, turn.at))
        turn.started = {}

    # Events, in the order in which they came ----------------------------------------------

    def _connected(self, turn: Turn, event: Connected) -> None:
        """Make store and executor agree: the same at start, after a crash and after a doubt."""
        runs = self._store.open_runs(self._memory.settings.node_id)
        found = compare(runs, event.runs, at=turn.at)
        turn.again = True  # what follows from an agreement is work of its own
        turn.after(partial(self._remember, event.hello, found, turn.now, turn.at))
        reports = {report.uid: report for report in event.runs}
        unknown = [run for run, end in found.over if end is None]
        living = self._stranded.living(turn, unknown)
        for run, end in found.over:
            if run.run_uid in living:
                continue
            self._catch_up_with_start(turn, run, reports.get(run.run_uid))
            self._close(turn, run, end)
        for run, report in found.live:
            self._catch_up(turn, run, report)
        for report in found.surplus:
            turn.after(partial(log.warning, "run.unknown", run=report.uid, pid=report.pid))
            grace = self._memory.settings.start.kill_grace
            order = wire.End(uid=report.uid, reason="unknown", longest_grace=grace)
            turn.after(partial(self._executor.send, order))
        for report in found.settled:
            turn.after(partial(self._executor.send, wire.Forget(uid=report.uid)))

    def _disconnected(self, turn: Turn, event: Disconnected) -> None:
        """Start nothing until an executor greets us; what it said last stands."""
        turn.claimless = True
        turn.after(partial(self._lost, event.reason))

    def _started(self, turn: Turn, event: wire.Started) -> None:
        """Keep a start for `record_starts`, or for the exit that may follow in the same turn."""
        turn.started[event.uid] = event

    def _start_failed(self, turn: Turn, event: wire.StartFailed) -> None:
        """Settle a run that never had a process."""
        run = self._store.open_run(event.uid)
        if run is not None:
            self._close(turn, run, event)

    def _changed(self, turn: Turn, event: wire.Changed) -> None:
        """Note a run that moved and is not gone."""
        if event.exit is not None:
            self._leader_exited(turn, event.uid, event.exit)
        if event.ended_by is not None:
            self._ended_by_itself(turn, event.uid, event.ended_by)
        if event.ended_by == wire.EndedBy.SHUTDOWN:
            turn.claimless = True
            turn.after(partial(self._lost, "it is being stopped"))
        if event.state is wire.RunState.UNKILLABLE:
            turn.after(partial(self._unkillable, event.uid, event.reason))
        elif event.reason:
            turn.after(partial(self._unsignalled, event.uid, event.reason))

    def _exited(self, turn: Turn, event: wire.Exited) -> None:
        """Settle a run whose process tree is gone, once; then the executor may forget it."""
        run = self._store.open_run(event.uid)
        if run is None:
            turn.started.pop(event.uid, None)
            turn.after(partial(self._memory.surplus.discard, event.uid))
            turn.after(partial(self._executor.send, wire.Forget(uid=event.uid)))
        else:
            self._close(turn, run, event)

    def _notice(self, turn: Turn, event: wire.Notice) -> None:
        """Take what a worker told the executor as if it had told us."""
        self._listener.hear_notice(turn, event)
        if event.until is not None:
            self._timeouts.extend(turn, event.uid, Instant(event.until))
        noted = wire.Noted(uid=event.uid, serial=event.serial)
        turn.after(partial(self._executor.send, noted))

    def _stray(self, turn: Turn, event: wire.Stray) -> None:
        """Note a process that may be of several runs."""
        turn.after(
            partial(
                log.warning,
                "worker.stray",
                pid=event.pid,
                name=event.name,
                candidates=event.candidates,
            )
        )

    # Writing ------------------------------------------------------------------------------

    def _close(self, turn: Turn, run: OpenRun, end: policy.End) -> None:
        started = turn.started.pop(run.run_uid, None)
        settlement = policy.settle(
            run,
            end,
            self._memory.settings.retry,
            now=turn.now,
            ended_at=self._ended_at(turn, end),
            started=self._start_of(turn, started),
            rng=self._rng,
        )
        if isinstance(end, wire.StartFailed) and end.fault is not wire.Fault.TASK:
            if end.fault is wire.Fault.HOST:
                turn.claimless = True
                turn.after(partial(self._host_fault, end.error, turn.at))
            delay = self._postponements[run.task_id].grow()
            until = StoreTime(turn.now + round(delay * 1000))
            settlement = policy.postponed(settlement, until=until, total_at=run.limits.total_at)
        self._store.settle(settlement, now=turn.now)
        turn.closed.add(run.run_uid)
        turn.after(partial(self._settled, run, settlement, end, started, turn.at))

    def _catch_up(self, turn: Turn, run: OpenRun, report: wire.RunReport) -> None:
        uid = run.run_uid
        self._catch_up_with_start(turn, run, report)
        if report.exit is not None:
            self._leader_exited(turn, uid, report.exit)
        if report.ended_by is not None:
            self._ended_by_itself(turn, uid, report.ended_by)

    def _catch_up_with_start(self, turn: Turn, run: OpenRun, report: wire.RunReport | None) -> None:
        """Record a start that we were not there to hear of."""
        if report is not None and run.pid is None and report.pid is not None:
            moment = store_time_of(_began(report, turn.at), now=turn.now, at=turn.at)
            self._store.record_started(run.run_uid, pid=report.pid, started_at=moment, now=turn.now)

    def _leader_exited(self, turn: Turn, uid: RunUid, end: wire.Exit) -> None:
        self._store.record_leader_exit(
            uid, exit_code=end.exit_code, signal=end.signal, now=turn.now
        )
        turn.after(partial(self._log, "worker.leader_exited", uid, exit_code=end.exit_code))

    def _ended_by_itself(self, turn: Turn, uid: RunUid, ended_by: str) -> None:
        outcome = policy.outcome_of_ending(ended_by)
        if outcome is not None:
            reason = f"ended by the executor: {ended_by}"
            self._store.begin_ending(uid, outcome, reason, now=turn.now)

    @staticmethod
    def _ended_at(turn: Turn, end: policy.End) -> StoreTime:
        if isinstance(end, wire.Exited):
            return store_time_of(Instant(end.exit.at), now=turn.now, at=turn.at)
        return turn.now

    @staticmethod
    def _start_of(turn: Turn, started: wire.Started | None) -> tuple[int, StoreTime] | None:
        if started is None:
            return None
        return started.pid, store_time_of(Instant(started.at), now=turn.now, at=turn.at)

    # After the commit ---------------------------------------------------------------------

    def _remember(self, hello: wire.Hello, found: Differences, now: StoreTime, at: Instant) -> None:
        self._memory.hello, self._memory.shut = hello, None  # if they are shut, that comes next
        log.info("executor.connected", executor_pid=hello.pid, epoch=hello.epoch)
        watched = {uid: live.watch for uid, live in self._memory.live.items()}
        self._memory.live.clear()
        self._memory.surplus.clear()
        self._memory.surplus.update(
            run.uid for run in found.surplus if run.state is not wire.RunState.UNKILLABLE
        )
        for run, report in found.live:
            live = self._memory.live[run.run_uid] = LiveRun.of(run)
            self._memory.stranded.pop(run.run_uid, None)
            live.pid = report.pid
            live.asks_until = None if report.until is None else Instant(report.until)
            if run.declared is not None:
                live.exit_by = Instant(at + self._memory.settings.start.exit_grace)
            live.watch = watched.get(run.run_uid)
            self._timeouts.resume(live, run, _began(report, at), now=now, at=at)
            if report.state is wire.RunState.UNKILLABLE:
                live.unkillable = report.reason
            elif report.reason:
                live.unsignalled = report.reason
            log.info("run.reconciled", state=report.state, **live.ids())

    def _lost(self, reason: str) -> None:
        if self._memory.hello is not None:
            self._memory.hello = None
            log.warning("executor.lost", reason=reason, runs=len(self._memory.live))

    def _note_started(self, event: wire.Started, now: StoreTime, at: Instant) -> None:
        live = self._memory.live.get(event.uid)
        if live is not None:
            live.pid = event.pid
            self._timeouts.begin(event.uid, live, Instant(event.at), now=now, at=at)
            self._postponements.pop(live.task_id, None)
            self._host_recovered(len(self._memory.live), at)
            log.info("run.started", **live.ids())

    def _settled(
        self,
        run: OpenRun,
        settlement: Settlement,
        end: policy.End,
        started: wire.Started | None,
        at: Instant,
    ) -> None:
        claimed = len(self._memory.live)
        live = self._memory.live.pop(run.run_uid, None) or LiveRun.of(run)
        self._memory.stranded.pop(run.run_uid, None)
        self._memory.figures.settled[settlement.outcome] += 1
        if live.told_to_end_at is not None:
            self._memory.figures.kills.observe(at - live.told_to_end_at)
        if started is not None:
            live.pid = started.pid
            self._host_recovered(claimed, at)
        log.info(
            "run.settled",
            outcome=settlement.outcome,
            exit_code=settlement.exit_code,
            signal=settlement.signal,
            reason=settlement.run_reason,
            state=settlement.state,
            **live.ids(),
        )
        if isinstance(end, wire.Exited):
            if end.exit.leftovers:
                log.warning("worker.leftover_ended", names=end.exit.leftovers, **live.ids())
            if end.exit.left_alone:
                log.info("worker.leftover_reported", names=end.exit.left_alone, **live.ids())
            self._executor.send(wire.Forget(uid=run.run_uid))

    def _host_fault(self, error: str, at: Instant) -> None:
        seconds = self._memory.pause.begin(error, living=self._memory.living, at=at)
        if seconds is not None:
            log.error("node.paused", reason=error, seconds=seconds)

    def _host_recovered(self, claimed: int, at: Instant) -> None:
        self._memory.figures.started_at = at
        pause = self._memory.pause
        if pause.reason is not None:
            log.info("node.resumed", reason=pause.reason)
        pause.started(claimed=claimed, slots=self._memory.settings.slots)

    def _unkillable(self, uid: RunUid, reason: str) -> None:
        self._memory.surplus.discard(uid)
        live = self._memory.live.get(uid)
        if live is not None:
            live.unkillable = reason
        self._log("worker.unkillable", uid, level="error", reason=reason)

    def _unsignalled(self, uid: RunUid, reason: str) -> None:
        if (live := self._memory.live.get(uid)) is not None:
            live.unsignalled = reason
        self._log("worker.unsignalled", uid, level="warning", reason=reason)

    def _log(self, event: str, uid: RunUid, *, level: str = "info", **facts: object) -> None:
        live = self._memory.live.get(uid)
        ids = live.ids() if live is not None else {"run": uid}
        getattr(log, level)(event, **facts, **ids)


def _began(report: wire.RunReport, at: Instant) -> Instant:
    """Return when a run that the executor reports was started, as its kernel says."""
    return at if report.start_ticks is None else Instant(report.start_ticks / TICKS)
