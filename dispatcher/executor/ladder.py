"""Ending runs: what a run's processes get to hear, and when nothing is left of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

import msgspec

from dispatcher import wire
from dispatcher.executor.answers import Absent, Look, Present, Unknown
from dispatcher.executor.journal import Journal, Line, without_tail
from dispatcher.executor.kernel import Kernel, Usage
from dispatcher.executor.log import Log
from dispatcher.executor.outputs import Outputs
from dispatcher.executor.procfs import Process
from dispatcher.executor.refusals import refusing, why_alive, why_unsignalled
from dispatcher.executor.run import MAX_CANDIDATES, MAX_LEFTOVERS, Phase, Run
from dispatcher.executor.sweep import Survivors
from dispatcher.executor.tree import Tree
from dispatcher.executor.walk import Walk
from dispatcher.times import Instant


class Ladder:
    """Moves runs towards their end, one look at a time, and tells what it sees."""

    def __init__(
        self,
        runs: Mapping[wire.RunUid, Run],
        *,
        kernel: Kernel,
        outputs: Outputs,
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
        self._survivors = Survivors(kernel, outputs)
        self._inherited: list[Run] = []
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

    def inherit(self, run: Run, at: Instant) -> bool:
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

    def is_walking(self, run: Run) -> bool:
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

    def advance(self, run: Run, at: Instant) -> bool:
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
        if self._signal(run, seen, at):
            self._tree.end_walk(run)
            run.looked(at)
        return False

    def _look(self, run: Run, at: Instant) -> Look:
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

    def _escalate(self, run: Run, seen: Present | Unknown, at: Instant) -> None:
        run.escalate(at)
        names = [process.name for process in _processes(seen) if process.alive][:MAX_LEFTOVERS]
        self._log("run.escalated", **run.ids, phase=run.phase.name.lower(), names=names)

    def _judge_survival(self, run: Run, seen: Present | Unknown, at: Instant) -> None:
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

    def _hold(self, run: Run, why: str, at: Instant) -> None:
        run.escalate(at)
        run.why_held = why
        self._send(wire.Changed(uid=run.uid, state=run.state, reason=run.why_held))
        self._log("worker.unkillable", **run.ids, pid=run.pid, reason=run.why_held)

    def _is_signalling(self, run: Run) -> bool:
        """Return whether the kill signal is on its way through a tree that one tick cannot reach.

        Until it is through, no grace is over, unless the host is short of what it needs.
        """
        walk = self._tree.walk(run)
        return run.asking and walk is not None and walk.parts > 1 and not walk.held_up

    def _signal(self, run: Run, seen: Present | Unknown, at: Instant) -> bool:
        """Signal those whose turn it is; False when this look needs another tick.

        The kill signal waits until the whole tree is found, and reaches each process once.
        """
        walk = self._tree.walk(run)
        if run.phase is Phase.KILLED:
            return self._kill(run, walk, seen, at)
        whole = walk is None or walk.whole
        if not (run.asking and whole):
            return whole
        if run.asks_leader_alone and run.pid is not None:
            for signum in (run.kill_signal, signal.SIGCONT):
                self._kernel.signal_leader(run.pid, signum)
            self._note_refused(run, [one for one in _processes(seen) if one.pid == run.pid])
            run.was_asked(at)
            return True
        return walk is None or self._ask(run, walk, at)

    def _ask(self, run: Run, walk: Walk, at: Instant) -> bool:
        """Send the kill signal to those whose turn it is; after a shortage it goes on there."""
        signums = (run.kill_signal, signal.SIGCONT)
        group = run.pid if run.holds_leader else None
        if group is not None and not walk.group_signalled:
            walk.group_signalled = True
            for signum in signums:
                self._kernel.signal_group(group, signum)
        processes = walk.take(self._tree.share, group)
        for number, process in enumerate(processes):
            if process.group != group and not self._signal_one(process, *signums):
                walk.give_back(len(processes) - number)
                processes = processes[:number]
                break
        self._note_signalled(run, processes)
        if walk.held_up:
            run.looked(at)
            return False
        if walk.signalled < len(walk.found):
            return False
        run.was_asked(at)
        return True

    def _kill(self, run: Run, walk: Walk | None, seen: Present | Unknown, at: Instant) -> bool:
        """Send SIGKILL: at once to a tree that was found in one tick; any other is frozen first.

        The group gets it at the end: who dies early leaves us children.
        """
        if walk is None and run.killing.freezing:
            return True
        if walk is not None:
            if run.killing.freezing and not walk.whole:
                return False
            if not run.killing.may_kill(walk):
                self._tree.begin_walk(run, at)
                return False
            if run.killing.freezing and not walk.signalled:
                walk.signal_children_first()
        processes = _processes(seen) if walk is None else walk.take(self._tree.share, None)
        done = walk is None or walk.signalled == len(walk.found)
        if run.holds_leader and run.pid is not None and done:
            self._kernel.signal_group(run.pid, signal.SIGKILL)
        run.was_killed([one for one in processes if self._signal_one(one, signal.SIGKILL)], at)
        self._note_signalled(run, processes)
        if done:
            run.killing.end_round()
        return done

    def _signal_one(self, process: Process, *signums: int) -> bool:
        """Signal a process; False: the host is short of what that needs."""
        try:
            self._kernel.signal(process, *signums)
        except OSError as error:
            self._note_shortage(error)
            return False
        return True

    def _note_signalled(self, run: Run, processes: list[Process]) -> None:
        refused = self._note_refused(run, processes)
        self._name_ended(run, [process for process in processes if process not in refused])

    def _note_refused(self, run: Run, processes: list[Process]) -> list[Process]:
        """Return the processes that may not be signalled; report once that a run has some."""
        try:
            refused = refusing(self._kernel, processes)
            if refused and not run.why_held:
                run.why_held = why_unsignalled(self._kernel, refused)
                self._send(wire.Changed(uid=run.uid, state=run.state, reason=run.why_held))
                self._log("worker.unsignalled", uid=run.uid, pid=run.pid, reason=run.why_held)
        except OSError as error:
            self._note_shortage(error)
            return []
        return refused

    def _name_ended(self, run: Run, processes: list[Process]) -> None:
        """Remember what only ended because we ended it, and not what was dead and is not reaped."""
        names = tuple(process.name for process in processes if process.alive)
        if not names:
            return
        if run.inherited:
            if run.exit is None and run.ended_by is None:
                run.ended_by = wire.EndedBy.SWEPT
        elif run.exit is not None and run.ended_by is None:
            if not run.leftovers:
                self._log("worker.leftover_ended", **run.ids, names=names[:MAX_LEFTOVERS])
            run.leftovers = tuple(dict.fromkeys(run.leftovers + names))[:MAX_LEFTOVERS]

    def _can_name(self, run: Run, processes: list[Process]) -> bool:
        """Return whether all leftovers are found, or as many as an exit names."""
        walk = self._tree.walk(run)
        found_all = walk is None or walk.whole
        return found_all or sum(process.alive for process in processes) >= MAX_LEFTOVERS

    def _leave_alone(self, run: Run, processes: list[Process], at: Instant) -> None:
        """Count a run as gone whose leader is, and name who else of its tree goes on."""
        living = [one for one in processes if one.alive][:MAX_LEFTOVERS]
        names = tuple(f"{one.name} ({one.pid})" for one in living)
        self._log("worker.leftover_reported", **run.ids, names=names)
        self._tree.leave_alone(run)
        self._gone(run, at, left_alone=names)

    def _gone(self, run: Run, at: Instant, left_alone: tuple[str, ...] = ()) -> None:
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


def _processes(seen: Look) -> list[Process]:
    return seen.processes if isinstance(seen, Present) else []
