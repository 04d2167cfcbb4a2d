"""What is reported of runs: to a successor in the journal, to the daemon, to operators in the log.

The journal comes first: whatever the daemon receives must survive this process.
"""

from collections.abc import Callable

from dispatcher import wire
from dispatcher.executor.journal import Journal
from dispatcher.executor.log import Log
from dispatcher.executor.records import Ending, Gone, LeaderExited, Starting
from dispatcher.executor.run import TrackedRun, ids, without_tail
from dispatcher.executor.system.procfs import Process
from dispatcher.host import utf8
from dispatcher.times import Instant

#: Runs named with a stray, those that started last.
MAX_CANDIDATES = 20

#: Seconds without a shortage after which it is over: three of the longest intervals between looks.
SHORTAGE_OVER = 30.0


class Reporter:
    """Reports each event to all who need it."""

    def __init__(
        self, journal: Journal, log: Log, send: Callable[[wire.FromExecutor], None]
    ) -> None:
        self.journal = journal
        self.log = log
        self.send = send
        self._short_at: dict[int | None, Instant] = {}

    def starting(self, run: TrackedRun, at: Instant) -> None:
        """Report a start before its leader is spawned."""
        self.journal.append(
            Starting(
                uid=run.uid,
                at=at,
                output_path=run.output_path,
                marked=run.marked,
                task_variables=run.task_variables,
                forwarded=run.forwarded,
            )
        )

    def start_failed(self, start: wire.Start, fault: wire.Fault, error: str) -> None:
        """Report that a run has no process."""
        error = utf8.as_utf8(error)
        self.log("run.start_failed", **ids(start.uid, start.env), fault=fault, error=error)
        self.send(wire.StartFailed(uid=start.uid, fault=fault, error=error))

    def ending(self, run: TrackedRun, reason: str, at: Instant) -> None:
        """Report that an ending begins, before the first signal."""
        self.journal.append(Ending(uid=run.uid, at=at, ended_by=reason))
        self.log("run.ending", **run.ids, reason=reason)

    def leader_exited(self, run: TrackedRun, exit_seen: wire.Exit, at: Instant) -> None:
        """Report a leader's exit that is not yet its run's."""
        self.journal.append(LeaderExited(uid=run.uid, at=at, exit=exit_seen))
        if run.state is wire.RunState.LEADER_EXITED:
            self.send(wire.Changed(uid=run.uid, state=run.state, exit=exit_seen))

    def gone(self, run: TrackedRun, complete: wire.Exit, at: Instant) -> None:
        """Report that nothing of a run is left."""
        kept = without_tail(complete)
        self.journal.append(Gone(uid=run.uid, at=at, exit=kept, ended_by=run.ended_by))
        self.send(wire.Exited(uid=run.uid, exit=complete, ended_by=run.ended_by))

    def trouble(self, event: str, run: TrackedRun, **ids: str | int) -> None:
        """Report why processes of a run cannot be ended."""
        self.send(wire.Changed(uid=run.uid, state=run.state, reason=run.trouble))
        self.log(event, **ids, pid=run.pid, reason=run.trouble)

    def stray(self, process: Process, candidates: tuple[wire.RunUid, ...]) -> None:
        """Report a process that may be of several runs."""
        candidates = candidates[-MAX_CANDIDATES:]
        self.log("worker.stray", pid=process.pid, name=process.name, candidates=candidates)
        self.send(wire.Stray(pid=process.pid, name=process.name, candidates=candidates))

    def shortage(self, error: OSError, at: Instant) -> None:
        """Report once for each errno what the host is short of; the next look tries again."""
        last = self._short_at.get(error.errno)
        self._short_at[error.errno] = at
        if last is None or at - last > SHORTAGE_OVER:
            self.log("host.short", error=str(error))
