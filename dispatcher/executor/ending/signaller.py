"""Sends a run's processes the signals of its ending, part by part where there are many."""

from __future__ import annotations

import signal
from collections.abc import Callable

from dispatcher import wire
from dispatcher.executor.ending.refusals import refusing, why_unsignalled
from dispatcher.executor.log import Log
from dispatcher.executor.processes.answers import Present, Unknown, processes_of
from dispatcher.executor.processes.tree import Tree
from dispatcher.executor.processes.walk import Walk
from dispatcher.executor.run import MAX_LEFTOVERS, Phase, TrackedRun
from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.procfs import Process
from dispatcher.times import Instant


class Signaller:
    """Signals whose turn it is, and reports who only ended because of that, or may not be."""

    def __init__(
        self,
        kernel: Kernel,
        tree: Tree,
        *,
        log: Log,
        send: Callable[[wire.FromExecutor], None],
        on_shortage: Callable[[OSError], None],
    ) -> None:
        self._kernel = kernel
        self._tree = tree
        self._log = log
        self._send = send
        self._on_shortage = on_shortage

    def signal(self, run: TrackedRun, seen: Present | Unknown, at: Instant) -> bool:
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
            self._note_refused(run, [one for one in processes_of(seen) if one.pid == run.pid])
            run.was_asked(at)
            return True
        return walk is None or self._ask(run, walk, at)

    def _ask(self, run: TrackedRun, walk: Walk, at: Instant) -> bool:
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

    def _kill(
        self, run: TrackedRun, walk: Walk | None, seen: Present | Unknown, at: Instant
    ) -> bool:
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
        processes = processes_of(seen) if walk is None else walk.take(self._tree.share, None)
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
            self._on_shortage(error)
            return False
        return True

    def _note_signalled(self, run: TrackedRun, processes: list[Process]) -> None:
        refused = self._note_refused(run, processes)
        self._name_ended(run, [process for process in processes if process not in refused])

    def _note_refused(self, run: TrackedRun, processes: list[Process]) -> list[Process]:
        """Return the processes that may not be signalled; report once that a run has some."""
        try:
            refused = refusing(self._kernel, processes)
            if refused and not run.why_held:
                run.why_held = why_unsignalled(self._kernel, refused)
                self._send(wire.Changed(uid=run.uid, state=run.state, reason=run.why_held))
                self._log("worker.unsignalled", uid=run.uid, pid=run.pid, reason=run.why_held)
        except OSError as error:
            self._on_shortage(error)
            return []
        return refused

    def _name_ended(self, run: TrackedRun, processes: list[Process]) -> None:
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
