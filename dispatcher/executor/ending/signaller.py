"""Sends a run's processes the signals of its ending, part by part where there are many.

It describes the processes that this user may not signal, as those of `sudo`.
"""

import signal
from collections.abc import Iterable

from dispatcher import wire
from dispatcher.executor.phases import Phase
from dispatcher.executor.processes.answers import Present, Unknown, processes_of
from dispatcher.executor.processes.tree import Tree
from dispatcher.executor.processes.walk import Walk
from dispatcher.executor.reports import Reporter
from dispatcher.executor.run import MAX_LEFTOVERS, TrackedRun
from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.procfs import Process
from dispatcher.host.marks import MOST_LISTED, listed
from dispatcher.times import Instant


class Signaller:
    """Signals processes in their turn, and reports those that it ended or may not signal."""

    def __init__(self, kernel: Kernel, tree: Tree, report: Reporter) -> None:
        self._kernel = kernel
        self._tree = tree
        self._report = report

    def signal(self, run: TrackedRun, seen: Present | Unknown, at: Instant) -> bool:
        """Signal those whose turn it is; False when this look needs another tick.

        The kill signal waits until the whole tree is found, and reaches each process once.
        """
        walk = self._tree.walk(run)
        if run.phase is Phase.KILLED:
            return self._kill(run, walk, seen, at)
        whole = walk is None or walk.whole
        if not (run.signalling and whole):
            return whole
        if run.signals_leader_alone and run.pid is not None:
            for signum in (run.kill_signal, signal.SIGCONT):
                self._kernel.signal_leader(run.pid, signum)
            leader = [one for one in processes_of(seen) if one.pid == run.pid]
            self._record_refused(run, leader, at)
            run.record_signalled(at)
            return True
        return walk is None or self._send_kill_signal(run, walk, at)

    def _send_kill_signal(self, run: TrackedRun, walk: Walk, at: Instant) -> bool:
        """Send the kill signal to processes in their turn; continue where a shortage stopped it."""
        signums = (run.kill_signal, signal.SIGCONT)
        group = run.pid if run.holds_leader else None
        if group is not None and not walk.group_signalled:
            walk.group_signalled = True
            for signum in signums:
                self._kernel.signal_group(group, signum)
        processes = walk.take(self._tree.share, group)
        for number, process in enumerate(processes):
            if process.group != group and not self._signal_one(process, at, *signums):
                walk.give_back(len(processes) - number)
                processes = processes[:number]
                break
        self._record_signalled(run, processes, at)
        if walk.held_up:
            run.plan_look(at)
            return False
        if walk.signalled < len(walk.found):
            return False
        run.record_signalled(at)
        return True

    def _kill(
        self, run: TrackedRun, walk: Walk | None, seen: Present | Unknown, at: Instant
    ) -> bool:
        """Send SIGKILL: at once to a tree that was found in one tick; any other is frozen first.

        The group gets SIGKILL last: the children of a process that dies early become ours. If the
        tree cannot be walked, the group gets SIGKILL at once, which needs nothing that is short.
        """
        if walk is None and run.kills.freezing:
            self._kill_group(run)
            return True
        if walk is not None:
            if run.kills.freezing and not walk.whole:
                return False
            if not run.kills.may_kill(found_at_once=walk.found_at_once):
                self._tree.begin_walk(run, at)
                return False
            if run.kills.freezing and not walk.signalled:
                walk.signal_children_first()
        processes = processes_of(seen) if walk is None else walk.take(self._tree.share, None)
        done = walk is None or walk.signalled == len(walk.found)
        if done:
            self._kill_group(run)
        run.record_killed(
            [one for one in processes if self._signal_one(one, at, signal.SIGKILL)], at
        )
        self._record_signalled(run, processes, at)
        if done:
            run.kills.end_round()
        return done

    def _kill_group(self, run: TrackedRun) -> None:
        if run.holds_leader and run.pid is not None:
            self._kernel.signal_group(run.pid, signal.SIGKILL)

    def _signal_one(self, process: Process, at: Instant, *signums: int) -> bool:
        """Signal a process; False if the host is short of what that needs."""
        try:
            self._kernel.signal(process, *signums)
        except OSError as error:
            self._report.shortage(error, at)
            return False
        return True

    def _record_signalled(self, run: TrackedRun, processes: list[Process], at: Instant) -> None:
        refused = self._record_refused(run, processes, at)
        self._name_ended(run, [process for process in processes if process not in refused])

    def _record_refused(
        self, run: TrackedRun, processes: list[Process], at: Instant
    ) -> list[Process]:
        """Return the processes that may not be signalled; report once that a run has some."""
        try:
            refused = refusing(self._kernel, processes)
            if refused and not run.trouble:
                run.trouble = why_unsignalled(self._kernel, refused)
                self._report.trouble("worker.unsignalled", run, uid=run.uid)
        except OSError as error:
            self._report.shortage(error, at)
            return []
        return refused

    def _name_ended(self, run: TrackedRun, processes: list[Process]) -> None:
        """Record what lived and would not have ended by itself; a zombie is not among it."""
        names = tuple(process.name for process in processes if process.alive)
        if not names:
            return
        if run.inherited is not None:
            if run.exit is None and run.ended_by is None:
                run.ended_by = wire.EndedBy.SWEPT
        elif run.exit is not None and run.ended_by is None:
            if not run.leftovers:
                self._report.log("worker.leftover_ended", **run.ids, names=names[:MAX_LEFTOVERS])
            run.leftovers = tuple(dict.fromkeys(run.leftovers + names))[:MAX_LEFTOVERS]


def refusing(kernel: Kernel, processes: Iterable[Process]) -> list[Process]:
    """Return those that live and that this user may not signal: kill(2), EPERM."""
    return [one for one in processes if one.alive and kernel.is_refused_by(one)]


def why_unsignalled(kernel: Kernel, processes: list[Process]) -> str:
    """Return who owns processes that may not be signalled, and the remedy."""
    shown = processes[:MOST_LISTED]
    owners = {_owner(kernel.owner(one.pid)) for one in shown}
    pids = " ".join(str(one.pid) for one in shown)
    verb, them = ("belongs", "it") if len(shown) == 1 else ("belong", "them")
    return (
        f"{_named(processes)} {verb} to {' and '.join(sorted(owners))},"
        f" and the dispatcher may not signal {them}: sudo kill {pids}"
    )


def why_alive(kernel: Kernel, processes: list[Process]) -> str:
    """Return which processes survived SIGKILL, and which of them may not be signalled."""
    refused = refusing(kernel, processes)
    survivors = [one for one in processes if one not in refused]
    reasons = [f"it survived SIGKILL: {_named(survivors)}"] if survivors else []
    if refused:
        reasons.append(why_unsignalled(kernel, refused))
    return "; ".join(reasons)


def _named(processes: list[Process]) -> str:
    return listed([f"{one.name} ({one.pid})" for one in processes])


def _owner(uid: int | None) -> str:
    # Looking a name up may wait for a server (NSS), so only root is named.
    if uid is None:
        return "another user"
    return "root" if uid == 0 else f"uid {uid}"
