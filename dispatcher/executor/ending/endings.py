"""Ending runs: what a run's processes get to hear, and when nothing is left of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from dispatcher import wire
from dispatcher.executor.ending.refusals import why_alive
from dispatcher.executor.ending.signaller import Signaller
from dispatcher.executor.journal import Journal, Line, without_tail
from dispatcher.executor.log import Log
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.processes.answers import Absent, Look, Present, Unknown, processes_of
from dispatcher.executor.processes.sweep import Survivors
from dispatcher.executor.processes.tree import Tree
from dispatcher.executor.run import MAX_CANDIDATES, MAX_LEFTOVERS, Phase, TrackedRun
from dispatcher.executor.system.kernel import Kernel, Usage
from dispatcher.executor.system.procfs import Process
from dispatcher.times import Instant


class Endings:
    """Moves runs towards their end, one look at a time, and tells what it sees."""

    def __init__(
        self,
        runs: Mapping[wire.RunUid, TrackedRun],
        *,
        kernel: Kernel,
        outputs: OutputFiles,
        journal: Journal,
        log: Log,
        send: Callable[[wire.FromExecutor], None],
    ) -> None:
        self._kernel = kernel
        self._outputs = outputs
        self._journal = journal
        self._log = log
        self._send = send
        self._tree = Tree(kernel, outputs, runs, on_stray=self._tell_stray)
        self._signaller = Signaller(
            kernel, self._tree, log=log, send=send, on_shortage=self._note_shortage
        )
        self._survivors = Survivors(kernel, outputs)
        self._inherited: list[TrackedRun] = []
        self._survived: dict[wire.RunUid, Look] | None = None
        self._short_of: set[int | None] = set()

    @property
    def sweeping(self) -> bool:
        """Whether a dead executor's run may still have processes that SIGKILL will end."""
        return any(not run.unkillable for run in self._inherited)

    @property
    def has_left(self) -> bool:
        """Whether processes that were left alone may die as our children."""
        return self._tree.has_left

    def inherit(self, run: TrackedRun, at: Instant) -> bool:
        """Take over a dead executor's run, with SIGKILL; False when it was gone already."""
        if run.phase is Phase.GONE and run.exit is not None:
            tail = self._outputs.tail(run.output_path)
            run.exit = msgspec.structs.replace(run.exit, tail=tail)
            return False
        self._log("run.inherited", **run.ids, pid=run.pid)
        self._inherited.append(run)
        run.kill(at)
        return True

    @property
    def behind(self) -> bool:
        """Whether our children need another look at once: there were too many for this tick."""
        return self._tree.behind

    def is_walking(self, run: TrackedRun) -> bool:
        """Whether a look at a run has begun that the next tick goes on with."""
        walk = self._tree.walk(run)
        return walk is not None and not walk.held_up

    def new_tick(self) -> None:
        """Forget what was seen in the tick before."""
        self._tree.new_tick()
        self._survived = None

    def share_among(self, runs: int) -> None:
        """Divide what a tick may look at among so many runs."""
        self._tree.share_among(runs)

    def survey(self, at: Instant) -> int:
        """Look at what our children left us; return how many dead orphans were reaped."""
        try:
            reaped = self._tree.survey(at)
        except OSError as error:
            self._note_shortage(error)
            return 0
        self._short_of.clear()
        return reaped

    def advance(self, run: TrackedRun, at: Instant) -> bool:
        """Take a run as far as it can go now; True when it is gone."""
        seen = self._look(run, at)
        if isinstance(seen, Absent):
            self._gone(run, at)
            return True
        if run.exit is not None and not run.exit_noted:
            run.exit_noted = True
            self._journal.note(Line(event="leader_exited", uid=run.uid, at=at, exit=run.exit))
            if run.state is wire.RunState.LEADER_EXITED:
                self._send(wire.Changed(uid=run.uid, state=run.state, exit=run.exit))
        if at >= run.limit and run.phase is Phase.LINGERING and run.report_leftovers:
            if isinstance(seen, Present) and self._can_name(run, seen.processes):
                self._leave_alone(run, seen.processes, at)
                return True
        elif run.phase is Phase.KILLED:
            self._judge_survival(run, seen, at)
        elif at >= run.limit and not self._is_signalling(run):
            self._escalate(run, seen, at)
        if self._signaller.signal(run, seen, at):
            self._tree.end_walk(run)
            run.looked(at)
        return False

    def _look(self, run: TrackedRun, at: Instant) -> Look:
        try:
            if not run.inherited:
                return self._tree.look(run, at)
            if self._survived is None:
                self._survived = self._survivors.look(self._inherited)
            return self._survived[run.uid]
        except OSError as error:
            self._note_shortage(error)
            self._tree.interrupt_walk(run)
            return Unknown(f"the host cannot show it: {error}")

    def _note_shortage(self, error: OSError) -> None:
        """Report once for each errno what the host cannot give; the next look tries again."""
        if error.errno not in self._short_of:
            self._short_of.add(error.errno)
            self._log("host.short", error=str(error))

    def _escalate(self, run: TrackedRun, seen: Present | Unknown, at: Instant) -> None:
        run.escalate(at)
        names = [process.name for process in processes_of(seen) if process.alive][:MAX_LEFTOVERS]
        self._log("run.escalated", **run.ids, phase=run.phase.name.lower(), names=names)

    def _judge_survival(self, run: TrackedRun, seen: Present | Unknown, at: Instant) -> None:
        """Call a run unkillable when a process lives long after its SIGKILL, or nobody can say.

        One that was found just now may have got no SIGKILL yet.
        """
        if isinstance(seen, Unknown):
            if at >= run.limit:
                self._hold(run, seen.why, at)
            return
        run.is_alive(at)
        walk = self._tree.walk(run)
        if walk is None or (walk.whole and not walk.signalled):
            survivors = run.killing.survivors(seen.processes, at if walk is None else walk.began_at)
            if survivors and not run.unkillable:
                self._hold(run, why_alive(self._kernel, survivors), at)

    def _hold(self, run: TrackedRun, why: str, at: Instant) -> None:
        run.escalate(at)
        run.why_held = why
        self._send(wire.Changed(uid=run.uid, state=run.state, reason=run.why_held))
        self._log("worker.unkillable", **run.ids, pid=run.pid, reason=run.why_held)

    def _is_signalling(self, run: TrackedRun) -> bool:
        """Return whether the kill signal is on its way through a tree that one tick cannot reach.

        Until it is through, no grace is over, unless the host is short of what it needs.
        """
        walk = self._tree.walk(run)
        return run.asking and walk is not None and walk.parts > 1 and not walk.held_up

    def _can_name(self, run: TrackedRun, processes: list[Process]) -> bool:
        """Return whether all leftovers are found, or as many as an exit names."""
        walk = self._tree.walk(run)
        found_all = walk is None or walk.whole
        return found_all or sum(process.alive for process in processes) >= MAX_LEFTOVERS

    def _leave_alone(self, run: TrackedRun, processes: list[Process], at: Instant) -> None:
        """Count a run as gone whose leader is, and name who else of its tree goes on."""
        living = [one for one in processes if one.alive][:MAX_LEFTOVERS]
        names = tuple(f"{one.name} ({one.pid})" for one in living)
        self._log("worker.leftover_reported", **run.ids, names=names)
        self._tree.leave_alone(run)
        self._gone(run, at, left_alone=names)

    def _gone(self, run: TrackedRun, at: Instant, left_alone: tuple[str, ...] = ()) -> None:
        usage = Usage()
        if run.inherited:
            self._inherited.remove(run)
            if run.uid in self._survivors.ended and run.exit is None and run.ended_by is None:
                run.ended_by = wire.EndedBy.SWEPT
        elif run.pid is not None:
            usage = self._kernel.reap(run.pid)
            self._tree.forget(run)
        seen = run.exit or wire.Exit(at=at)
        tail = self._outputs.end(run.output_path)
        whole = wire.Exit(
            at=seen.at,
            exit_code=seen.exit_code,
            signal=seen.signal,
            oom=seen.oom,
            oom_doubtful=seen.oom_doubtful,
            max_rss_bytes=usage.max_rss_bytes,
            cpu_seconds=usage.cpu_seconds,
            leftovers=run.leftovers,
            left_alone=left_alone,
            output_truncated=self._outputs.truncated(run.output_path),
            tail=tail,
        )
        run.gone(whole)
        kept = without_tail(whole)
        self._journal.note(Line(event="gone", uid=run.uid, at=at, exit=kept, ended_by=run.ended_by))
        self._send(wire.Exited(uid=run.uid, exit=whole, ended_by=run.ended_by))

    def _tell_stray(self, process: Process, candidates: tuple[wire.RunUid, ...]) -> None:
        candidates = candidates[-MAX_CANDIDATES:]
        self._log("worker.stray", pid=process.pid, name=process.name, candidates=candidates)
        self._send(wire.Stray(pid=process.pid, name=process.name, candidates=candidates))
