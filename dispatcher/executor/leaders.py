"""The leaders of runs: spawned in the tick of their start, watched until they exit."""

from collections.abc import Iterable

import msgspec

from dispatcher import wire
from dispatcher.executor.outside import Outside
from dispatcher.executor.records import Forgotten, LeaderStarted
from dispatcher.executor.run import TrackedRun
from dispatcher.executor.starting.spawn import CannotStart
from dispatcher.executor.table import RunTable
from dispatcher.times import NEVER, Instant

#: Seconds for which the report of a start is delayed, so that a run that ends at once is reported
#: in one piece: the daemon then writes it once. Nobody waits for a start.
REPORT_DELAY = 0.02


class Leaders:
    """Spawns leaders, reports their starts a little later, and sees their exits."""

    def __init__(self, outside: Outside, table: RunTable) -> None:
        self._kernel = outside.kernel
        self._spawner = outside.spawner
        self._outputs = outside.outputs
        self._notices = outside.notices
        self._report = outside.report
        self._table = table
        self._unreported: dict[wire.RunUid, wire.Started] = {}
        self._by_handle: dict[int, TrackedRun] = {}
        self._without_handle: list[TrackedRun] = []

    @property
    def due(self) -> Instant:
        """When to report the oldest start."""
        for oldest in self._unreported.values():
            return Instant(oldest.at + REPORT_DELAY)
        return NEVER

    def spawn(
        self, run: TrackedRun, start: wire.Start, journal_error: OSError | None, at: Instant
    ) -> bool:
        """Spawn a leader that the journal has; False, and a report, if that fails."""
        before = self._kernel.ticks()
        try:
            if journal_error is not None:
                raise CannotStart.without_journal(journal_error)
            pid = self._spawner.start(self._with_socket(start))
        except CannotStart as failure:
            self._notices.forget(run.uid)
            self._outputs.close(run.output_path)
            self._table.remove(run)
            self._report.journal.append(Forgotten(uid=run.uid, at=at))
            self._report.start_failed(start, failure.fault, failure.error)
            return False
        ticks = self._kernel.start_ticks(pid, since=before)
        run.record_spawned(pid, ticks, self._kernel.adopt(pid))
        if run.handle is None:
            self._without_handle.append(run)
        else:
            self._by_handle[run.handle] = run
        self._report.journal.append(LeaderStarted(uid=run.uid, at=at, pid=pid, start_ticks=ticks))
        self._unreported[run.uid] = wire.Started(uid=run.uid, pid=pid, start_ticks=ticks, at=at)
        return True

    def report_due(self, at: Instant) -> None:
        """Report the starts whose delay is over."""
        while at >= self.due:
            self.report(next(iter(self._unreported)))

    def report(self, uid: wire.RunUid) -> None:
        """Report a start now, if it was not reported yet."""
        if started := self._unreported.pop(uid, None):
            self._report.send(started)

    def record_exits(self, ready: Iterable[int], at: Instant) -> None:
        """Record the exits of the leaders whose handles are ready."""
        for descriptor in ready:
            run = self._by_handle.get(descriptor)
            if run is not None and not self.record_exit(run, at):
                # Dead, and held by a tracer: its handle would be ready at every look until then.
                self._drop_handle(run)
                self._without_handle.append(run)

    def record_unwatched(self, at: Instant) -> None:
        """Record the exits of leaders without a handle."""
        for run in self._without_handle:
            if run.leader_lives:
                self.record_exit(run, at)
        self._without_handle = [run for run in self._without_handle if run.leader_lives]

    def record_exit(self, run: TrackedRun, at: Instant) -> bool:
        """Record a leader's exit; False if it lives."""
        status = self._kernel.exit_of(run.pid) if run.pid else None
        if status is None:
            return False
        self._drop_handle(run)
        exit_seen = wire.Exit(at=at, exit_code=status.exit_code, signal=status.signal)
        run.record_leader_exit(exit_seen, at)
        self._table.attention[run.uid] = run
        return True

    def _drop_handle(self, run: TrackedRun) -> None:
        if run.handle is not None:
            del self._by_handle[run.handle]
            self._kernel.release(run.handle)
            run.handle = None

    def _with_socket(self, start: wire.Start) -> wire.Start:
        """Return a start with its notify socket in its environment, if it wants one."""
        if start.watchdog is None:
            return start
        try:
            variables = self._notices.open(start.uid, start.watchdog)
        except OSError as error:
            raise CannotStart(wire.Fault.HOST, f"cannot make its notify socket: {error}") from error
        return msgspec.structs.replace(start, env={**start.env, **variables})
