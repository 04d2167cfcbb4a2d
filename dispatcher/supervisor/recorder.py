"""The executor's events, recorded: starts, changes, exits, and the greeting of a new connection."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import structlog

from dispatcher import wire
from dispatcher.execution import OpenRun, StartedRun
from dispatcher.executor_api import Connected, Disconnected, Event
from dispatcher.supervisor.changes import Changes
from dispatcher.supervisor.live_runs import LiveRun
from dispatcher.supervisor.lost import LostClaims
from dispatcher.supervisor.reconcile import Differences, compare
from dispatcher.supervisor.settler import Settler
from dispatcher.supervisor.stranded import StrandedRuns
from dispatcher.supervisor.timeouts import Timeouts
from dispatcher.supervisor.turn import Shared, Turn
from dispatcher.supervisor.worker_recorder import WorkerRecorder
from dispatcher.times import Instant, StoreTime
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Ticks of /proc/PID/stat in a second.
TICKS = os.sysconf("SC_CLK_TCK")


class Recorder:
    """Records what happened to runs, and keeps the memory of live runs true."""

    def __init__(
        self,
        shared: Shared,
        timeouts: Timeouts,
        workers: WorkerRecorder,
        stranded: StrandedRuns,
        settler: Settler,
    ) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._timeouts = timeouts
        self._workers = workers
        self._stranded = stranded
        self._settler = settler
        self._lost = LostClaims(shared)
        self._changes = Changes(shared, workers)
        self._recordings: dict[type[Event], Callable[[Turn, Any], None]] = {
            Connected: self._connected,
            Disconnected: self._disconnected,
            wire.Started: self._started,
            wire.StartFailed: self._ended,
            wire.Changed: self._changed,
            wire.Exited: self._ended,
            wire.Notice: self._notice,
            wire.Stray: self._stray,
            wire.Door: workers.record_door,
        }

    def record(self, turn: Turn, event: Event) -> None:
        """Record an event, or keep it while others have locked the rows that it needs."""
        if turn.held and _waits(turn, event):
            turn.kept.append(event)
        else:
            self._recordings[type(event)](turn, event)

    def record_ends(self, turn: Turn) -> None:
        """Write what this turn kept, and settle the runs that ended; the executor forgets them."""
        self._changes.record(turn)
        ends, turn.pending_ends = turn.pending_ends, {}
        if not ends:
            return
        runs = self._store.open_runs_among(ends.keys())
        self._settler.settle(turn, [(runs[uid], end) for uid, end in ends.items() if uid in runs])
        for uid, end in ends.items():
            if uid not in runs:
                turn.pending_starts.pop(uid, None)
                turn.again = True  # its slot is free, and others may start again
                turn.after(partial(self._lost.gone, end))

    def record_starts(self, turn: Turn) -> None:
        """Write the starts of this turn that no exit followed, and find runs that are lost."""
        starts = [
            StartedRun(uid=uid, pid=event.pid, at=turn.store_time_of(event.at))
            for uid, event in turn.pending_starts.items()
        ]
        if starts and self._store.record_started(starts, now=turn.now) < len(starts):
            turn.doubted |= turn.pending_starts.keys()
        for event in turn.pending_starts.values():
            turn.after(partial(self._remember_started, event, turn.now, turn.at))
        turn.pending_starts = {}
        self._find_lost(turn)

    def _find_lost(self, turn: Turn) -> None:
        """End the doubted runs that are not open: another node has settled them.

        Until they are gone nothing starts: not in this turn either, nor at once after it.
        """
        doubted, turn.doubted = turn.doubted, set()
        if doubted and (lost := doubted - self._store.open_runs_among(doubted).keys()):
            turn.claims_blocked = turn.again = True
            turn.after(partial(self._lost.end, lost))

    def _connected(self, turn: Turn, event: Connected) -> None:
        """Reconcile store and executor: at start, after a crash and after an unknown commit."""
        self.record_ends(turn)
        runs, held = self._store.open_runs(self._memory.settings.node_id), turn.held.tasks
        if self._workers.declare_again(turn, (run for run in runs if run.run_uid not in held)):
            runs = self._store.open_runs(self._memory.settings.node_id)
        found = compare(runs, event.runs, at=turn.at)
        turn.again = True  # what follows is work of its own
        turn.after(partial(self._remember, event.hello, found, turn.now, turn.at))
        uncompared = {run.run_uid for run in runs} & held.keys()
        turn.after(partial(setattr, self._memory, "uncompared", uncompared))
        reports = {report.uid: report for report in event.runs}
        unknown = [run for run, end in found.over if end is None]
        living = self._stranded.living(turn, unknown)
        over = [(run, end) for run, end in found.over if run.run_uid not in {*living, *held}]
        goes_on = [(run, report) for run, report in found.live if run.run_uid not in held]
        known = [*((run, reports.get(run.run_uid)) for run, _ in over), *goes_on]
        self._record_missed_starts(turn, known)
        self._settler.settle(turn, over)
        for _, report in goes_on:
            self._changes.keep_facts(turn, report)
            self._log_exit(turn, report)
            if report.state is wire.RunState.UNKILLABLE:
                self._store.record_unkillable(report.uid, report.reason, now=turn.now)
        closed = self._store.known_runs(report.uid for report in found.surplus)
        for report in found.surplus:
            live = self._memory.live.get(report.uid)
            turn.after(partial(self._end_surplus, report, live, at_once=report.uid in closed))
        for report in found.settled:
            turn.after(partial(self._executor.send, wire.Forget(uid=report.uid)))

    def _disconnected(self, turn: Turn, event: Disconnected) -> None:
        """Start nothing until an executor greets us; its last events hold."""
        turn.claims_blocked = True
        turn.after(partial(self._remember_lost, event.reason))

    def _started(self, turn: Turn, event: wire.Started) -> None:
        """Keep a start for `record_starts`, or for an exit in the same turn."""
        turn.pending_starts[event.uid] = event

    def _end_surplus(self, report: wire.RunReport, live: LiveRun | None, *, at_once: bool) -> None:
        """End a run that is not open: at once, if the store has closed it, and so it is lost."""
        if live is None:
            log.warning("run.unknown", run=report.uid, pid=report.pid)
        else:
            log.warning("claim.lost", **live.ids())
        grace = None if at_once else self._memory.settings.kill_grace
        reason = "lost" if at_once else "unknown"
        order = wire.End(uid=report.uid, reason=reason, at_once=at_once, longest_grace=grace)
        self._executor.send(order)

    def _changed(self, turn: Turn, event: wire.Changed) -> None:
        if not self._changes.keep_facts(turn, event):
            turn.doubted.add(event.uid)
        self._log_exit(turn, event)
        if event.ended_by == wire.EndedBy.SHUTDOWN:
            turn.claims_blocked = True
            turn.after(partial(self._remember_lost, "it is being stopped"))
        if event.state is wire.RunState.UNKILLABLE:
            self._store.record_unkillable(event.uid, event.reason, now=turn.now)
            turn.after(partial(self._remember_unkillable, event.uid, event.reason))
        elif event.reason:
            turn.after(partial(self._remember_unsignalled, event.uid, event.reason))

    def _ended(self, turn: Turn, event: wire.Exited | wire.StartFailed) -> None:
        """Keep an end for `record_ends`."""
        turn.pending_ends[event.uid] = event

    def _notice(self, turn: Turn, event: wire.Notice) -> None:
        """Keep what a worker sent to the executor, and let it extend its time-out."""
        self._changes.keep_notice(turn, event)
        if event.until is not None:
            self._timeouts.extend(turn, event.uid, Instant(event.until))
        noted = wire.Noted(uid=event.uid, serial=event.serial)
        turn.after(partial(self._executor.send, noted))

    def _stray(self, turn: Turn, event: wire.Stray) -> None:
        facts = {"pid": event.pid, "name": event.name, "candidates": event.candidates}
        turn.after(partial(log.warning, "worker.stray", **facts))

    def _record_missed_starts(
        self, turn: Turn, known: Iterable[tuple[OpenRun, wire.RunReport | None]]
    ) -> None:
        """Record starts that happened while no daemon was connected."""
        starts = [
            StartedRun(
                uid=run.run_uid, pid=report.pid, at=turn.store_time_of(_began(report, turn.at))
            )
            for run, report in known
            if report is not None and run.pid is None and report.pid is not None
        ]
        if starts:
            self._store.record_started(starts, now=turn.now)

    def _log_exit(self, turn: Turn, fresh: wire.Changed | wire.RunReport) -> None:
        if fresh.exit is not None:
            exited = partial(self._log, "worker.leader_exited", fresh.uid)
            turn.after(partial(exited, exit_code=fresh.exit.exit_code))

    def _remember(self, hello: wire.Hello, found: Differences, now: StoreTime, at: Instant) -> None:
        memory = self._memory
        # Whether workers reach their sockets is the next event.
        memory.hello, memory.workers_unreachable = hello, None
        log.info("executor.connected", executor_pid=hello.pid, epoch=hello.epoch)
        known = dict(memory.live)
        memory.live.clear()
        memory.surplus.clear()
        memory.surplus.update(
            run.uid for run in found.surplus if run.state is not wire.RunState.UNKILLABLE
        )
        for run, report in found.live:
            live = LiveRun.of(run)
            memory.stranded.pop(run.run_uid, None)
            live.pid = report.pid
            live.extended_until = None if report.until is None else Instant(report.until)
            if (before := known.get(run.run_uid)) is not None:
                live.watch, live.declaration = before.watch, before.declaration
            memory.live.add(live)
            if run.declared is not None:
                by = Instant(at + memory.settings.start.exit_grace)
                memory.live.expect_exit(live, by)
            self._timeouts.resume(live, run, _began(report, at), now=now, at=at)
            if report.state is wire.RunState.UNKILLABLE:
                live.unkillable = report.reason
            elif report.reason:
                live.unsignalled = report.reason
            log.info("run.reconciled", state=report.state, **live.ids())

    def _remember_lost(self, reason: str) -> None:
        if self._memory.hello is not None:
            self._memory.hello = None
            log.warning("executor.lost", reason=reason, runs=len(self._memory.live))

    def _remember_started(self, event: wire.Started, now: StoreTime, at: Instant) -> None:
        live = self._memory.live.get(event.uid)
        if live is not None:
            self._memory.live.started(live, event.pid)
            self._timeouts.begin(live, Instant(event.at), now=now, at=at)
            self._settler.remember_started(live.task_id, at)
            log.info("run.started", **live.ids())

    def _remember_unkillable(self, uid: RunUid, reason: str) -> None:
        self._memory.surplus.discard(uid)
        live = self._memory.live.get(uid)
        if live is not None:
            live.unkillable = reason
        self._log("worker.unkillable", uid, level="error", reason=reason)

    def _remember_unsignalled(self, uid: RunUid, reason: str) -> None:
        if (live := self._memory.live.get(uid)) is not None:
            live.unsignalled = reason
        self._log("worker.unsignalled", uid, level="warning", reason=reason)

    def _log(self, event: str, uid: RunUid, *, level: str = "info", **facts: object) -> None:
        live = self._memory.live.get(uid)
        ids = live.ids() if live is not None else {"run": uid}
        getattr(log, level)(event, **facts, **ids)


def _waits(turn: Turn, event: Event) -> bool:
    """Return whether an event waits for rows that others have locked.

    A greeting waits for the node's own row, as only then all claims of the node are known; and what
    came after it waits for the greeting.
    """
    greets = (isinstance(one, Connected) for one in (event, *turn.kept))
    return (turn.held.node and any(greets)) or getattr(event, "uid", None) in turn.held.tasks


def _began(report: wire.RunReport, at: Instant) -> Instant:
    """Return when a reported run started, according to its kernel."""
    return at if report.start_ticks is None else Instant(report.start_ticks / TICKS)
