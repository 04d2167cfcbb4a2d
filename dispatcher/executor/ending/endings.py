"""Ending runs: which signals a run's processes get, and when nothing is left of them."""

import msgspec

from dispatcher import wire
from dispatcher.executor.ending.signaller import Signaller, why_alive
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.phases import Phase
from dispatcher.executor.processes.answers import Absent, Look, Present, Unknown, processes_of
from dispatcher.executor.processes.sweep import Survivors
from dispatcher.executor.processes.tree import Tree
from dispatcher.executor.records import InheritedRun
from dispatcher.executor.reports import Reporter
from dispatcher.executor.run import MAX_LEFTOVERS, TrackedRun
from dispatcher.executor.system.kernel import Kernel, Usage
from dispatcher.executor.system.procfs import Process
from dispatcher.times import Instant


class Endings:
    """Moves runs towards their end, one look at a time, and reports what it sees."""

    def __init__(self, kernel: Kernel, outputs: OutputFiles, tree: Tree, report: Reporter) -> None:
        self._kernel = kernel
        self._outputs = outputs
        self._tree = tree
        self._survivors = Survivors(kernel, outputs)
        self._signaller = Signaller(kernel, tree, report)
        self._report = report

    def take_over(self, run: TrackedRun, inherited: InheritedRun, at: Instant) -> bool:
        """Begin to kill what survives of a predecessor's run; False if the run was gone already."""
        if run.phase is Phase.GONE and run.exit is not None:
            tail = self._outputs.tail(run.output_path)
            run.exit = msgspec.structs.replace(run.exit, tail=tail)
            return False
        self._report.log("run.inherited", **run.ids, pid=run.pid)
        self._survivors.add(inherited)
        run.kill(at)
        return True

    def is_walking(self, run: TrackedRun) -> bool:
        """Whether a look at a run has begun that the next tick goes on with."""
        walk = self._tree.walk(run)
        return walk is not None and not walk.held_up

    def new_tick(self) -> None:
        """Discard what the last tick saw."""
        self._tree.new_tick()
        self._survivors.new_tick()

    def advance(self, run: TrackedRun, at: Instant) -> bool:
        """Take a run as far as it can go now; True when it is gone."""
        seen = self._look(run, at)
        if isinstance(seen, Absent):
            self._end(run, at)
            return True
        if run.exit is not None and not run.exit_recorded:
            run.exit_recorded = True
            self._report.leader_exited(run, run.exit, at)
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
            run.plan_look(at)
        return False

    def _look(self, run: TrackedRun, at: Instant) -> Look:
        try:
            if run.inherited is None:
                return self._tree.look(run, at)
            return self._survivors.look(run.uid)
        except OSError as error:
            self._report.shortage(error, at)
            self._tree.interrupt_walk(run)
            return Unknown(f"the host cannot show it: {error}")

    def _escalate(self, run: TrackedRun, seen: Present | Unknown, at: Instant) -> None:
        run.escalate(at)
        names = [process.name for process in processes_of(seen) if process.alive][:MAX_LEFTOVERS]
        self._report.log("run.escalated", **run.ids, phase=run.phase.name.lower(), names=names)

    def _judge_survival(self, run: TrackedRun, seen: Present | Unknown, at: Instant) -> None:
        """Call a run unkillable if a process lives long after its SIGKILL, or that is unknown.

        A process that was found just now may have got no SIGKILL yet.
        """
        if isinstance(seen, Unknown):
            if at >= run.limit:
                self._hold(run, seen.why)
            return
        run.record_alive(at)
        walk = self._tree.walk(run)
        if walk is None or (walk.whole and not walk.signalled):
            survivors = run.kills.survivors(seen.processes, at if walk is None else walk.began_at)
            if survivors and not run.unkillable:
                self._hold(run, why_alive(self._kernel, survivors))

    def _hold(self, run: TrackedRun, why: str) -> None:
        run.record_unkillable(why)
        self._report.trouble("worker.unkillable", run, **run.ids)

    def _is_signalling(self, run: TrackedRun) -> bool:
        """Return whether the kill signal is on its way through a tree larger than one tick reaches.

        Until it is through, no grace is over, unless the host is short of what it needs.
        """
        walk = self._tree.walk(run)
        return run.signalling and walk is not None and walk.parts > 1 and not walk.held_up

    def _can_name(self, run: TrackedRun, processes: list[Process]) -> bool:
        """Return whether all leftovers are found, or as many as an exit names."""
        walk = self._tree.walk(run)
        found_all = walk is None or walk.whole
        return found_all or sum(process.alive for process in processes) >= MAX_LEFTOVERS

    def _leave_alone(self, run: TrackedRun, processes: list[Process], at: Instant) -> None:
        """End a run whose leader is gone, and name those of its tree that go on."""
        living = [one for one in processes if one.alive][:MAX_LEFTOVERS]
        names = tuple(f"{one.name} ({one.pid})" for one in living)
        self._report.log("worker.leftover_reported", **run.ids, names=names)
        self._tree.leave_alone(run)
        self._end(run, at, left_alone=names)

    def _end(self, run: TrackedRun, at: Instant, left_alone: tuple[str, ...] = ()) -> None:
        """Report that a run is gone, with its complete exit."""
        usage = Usage()
        if run.inherited is not None:
            killed = self._survivors.drop(run.uid)
            if killed and run.exit is None and run.ended_by is None:
                run.ended_by = wire.EndedBy.SWEPT
        elif run.pid is not None:
            usage = self._kernel.reap(run.pid)
            self._tree.forget(run)
        complete = msgspec.structs.replace(
            run.exit or wire.Exit(at=at),
            tail=self._outputs.end(run.output_path),
            max_rss_bytes=usage.max_rss_bytes,
            cpu_seconds=usage.cpu_seconds,
            leftovers=run.leftovers,
            left_alone=left_alone,
            output_truncated=self._outputs.truncated(run.output_path),
        )
        run.record_gone(complete)
        self._report.gone(run, complete, at)
