"""What a dead executor's runs left behind, found among all processes: none of them is our child.

A look takes 80 us for each process of the host, in one tick: 0.33 s for 4,000. Nothing waits for
it, as daemons are let in after the sweep. Survivors that cannot die are looked at every ten
seconds.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from dispatcher import wire
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.processes.answers import ABSENT, Look, Present, Unknown
from dispatcher.executor.processes.attribution import markers
from dispatcher.executor.records import InheritedRun
from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.procfs import File, Process
from dispatcher.host.marks import by_mark

#: Ticks of a second in /proc; an instant times this is comparable with a start.
TICKS = os.sysconf("SC_CLK_TCK")

Owners = dict[int, wire.RunUid]
ByPid = dict[int, Process]


@dataclass(slots=True)
class _Scan:
    found: dict[wire.RunUid, ByPid]
    whole: bool
    """Whether no process with a mark can be missing."""
    dead: defaultdict[wire.RunUid, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Pids of dead processes that had a mark: they may have left others behind just now."""
    unread: list[Process] = field(default_factory=list)
    """Processes that may be of a run without a mark, if they are not older than its leader."""
    hidden: dict[wire.RunUid, str] = field(default_factory=dict)
    """Runs whose leader may still be there, and why that is unknown."""


class Survivors:
    """Finds the processes of runs that an executor before this one started."""

    def __init__(self, kernel: Kernel, outputs: OutputFiles) -> None:
        self._kernel = kernel
        self._outputs = outputs
        self._runs: dict[wire.RunUid, InheritedRun] = {}
        self._looks: dict[wire.RunUid, Look] | None = None
        self._killed: set[wire.RunUid] = set()

    def add(self, run: InheritedRun) -> None:
        """Look for the processes of a run from now on."""
        self._runs[run.uid] = run

    def drop(self, uid: wire.RunUid) -> bool:
        """Look for a run's processes no more; return whether a sweep has killed one of them."""
        del self._runs[uid]
        return uid in self._killed

    def new_tick(self) -> None:
        """Discard the look of the last tick."""
        self._looks = None

    def look(self, uid: wire.RunUid) -> Look:
        """Look at what is left of a run; all runs share one look a tick."""
        if self._looks is None:
            self._looks = self._look_at([*self._runs.values()])
        return self._looks[uid]

    def _look_at(self, runs: Collection[InheritedRun]) -> dict[wire.RunUid, Look]:
        """Look at what is left of each run; two scans must agree that there is nothing."""
        first, second = self._scan(runs), self._scan(runs)
        looks: dict[wire.RunUid, Look] = {}
        for run in runs:
            processes = first.found[run.uid] | second.found[run.uid]
            if processes:
                looks[run.uid] = Present([*processes.values()])
            elif why := second.hidden.get(run.uid) or _unread(run, first.unread + second.unread):
                looks[run.uid] = Unknown(why)
            elif not second.whole or second.dead[run.uid] - first.dead[run.uid]:
                looks[run.uid] = Unknown("processes come and go while they are looked at")
            else:
                looks[run.uid] = ABSENT
        return looks | self._writers([run for run in runs if looks[run.uid] is ABSENT])

    def _scan(self, runs: Collection[InheritedRun]) -> _Scan:
        marked = by_mark(run.uid for run in runs)
        marks, whole = self._kernel.kill_marked(marked, lambda mark: self._killed.add(marked[mark]))
        everyone = self._everyone()
        scan = _Scan({run.uid: {} for run in runs}, whole)
        owners = self._by_identity(runs, everyone, scan)
        for pid, mark in marks.items():
            if (uid := marked.get(mark)) is None:
                continue
            process = self._kernel.look(pid)
            if process is not None and process.alive:  # /proc may list no such process
                everyone[pid] = process._replace(mark=mark)
                owners[pid] = uid
            else:
                scan.dead[uid].add(pid)
        for process in everyone.values():
            if process.pid not in owners:
                environment = self._kernel.environment(process)
                if environment is None:
                    scan.unread.append(process)
                for uid in markers(environment or b"") & scan.found.keys():
                    owners[process.pid] = uid
        _follow_lineage(owners, everyone)
        for pid, owner in owners.items():
            scan.found[owner][pid] = everyone[pid]
        return scan

    def _by_identity(self, runs: Collection[InheritedRun], everyone: ByPid, scan: _Scan) -> Owners:
        """Attribute leaders, and sessions and groups as far as these are surely their own."""
        members: dict[int, set[Process]] = defaultdict(set)
        for process in everyone.values():
            for number in (process.pid, process.session, process.group):
                members[number].add(process)
        owners: Owners = {}
        for run in runs:
            if run.pid is None:
                continue
            leader = self._kernel.look(run.pid)
            # The number of a session is not given to another while it has a member. So the leader
            # proves it for all, or one member from when the leader was surely not yet reaped.
            if leader is None:
                last = run.held_until * TICKS
                is_ours = any(0 <= one.start_ticks < last for one in members[run.pid])
            else:
                is_ours = leader.start_ticks == run.start_ticks
                if leader.opaque and self._kernel.may_signal(leader.pid):
                    scan.hidden[run.uid] = f"/proc does not show who has its first pid {run.pid}"
            if is_ours:
                owners |= {member.pid: run.uid for member in members[run.pid]}
        return owners

    def _everyone(self) -> ByPid:
        looked = map(self._kernel.look, self._kernel.everyone())
        return {p.pid: p for p in looked if p and p.alive and p.pid != self._kernel.pid}

    def _writers(self, runs: Collection[InheritedRun]) -> dict[wire.RunUid, Look]:
        """Return who writes to the outputs of these runs that are still locked."""
        locked: dict[File, InheritedRun] = {}
        unknown: dict[wire.RunUid, Look] = {}
        for run in runs:
            try:
                held = self._outputs.is_locked(run.output_path)
            except OSError as error:
                unknown[run.uid] = Unknown(f"{run.output_path}: {error.strerror}")
            else:
                if held and (file := self._outputs.identity(run.output_path)):
                    locked[file] = run
        found: dict[wire.RunUid, list[Process]] = {run.uid: [] for run in locked.values()}
        paths = {file: run.output_path for file, run in locked.items()}
        for process in self._everyone().values() if locked else ():
            if file := self._kernel.written(process.pid, paths):
                found[locked[file].uid].append(process)
        why = "its output file is locked, and no process is seen that writes to it"
        return unknown | {
            uid: Present(some) if some else Unknown(why) for uid, some in found.items()
        }


def _unread(run: InheritedRun, processes: Iterable[Process]) -> str | None:
    """Return why a process that cannot be read may be of a run; None: none may."""
    for process in processes:
        young = process.start_ticks >= (run.start_ticks or 0)
        if young and not run.marked:
            return f"{process.name} ({process.pid}) cannot be read yet"
    return None


def _follow_lineage(owners: Owners, everyone: ByPid) -> None:
    """Attribute each process to its parent's run."""
    children: dict[int, list[int]] = defaultdict(list)
    for process in everyone.values():
        children[process.parent].append(process.pid)
    found = list(owners)
    for pid in found:  # it grows while we go through it
        for child in children[pid]:
            if child not in owners:
                owners[child] = owners[pid]
                found.append(child)
