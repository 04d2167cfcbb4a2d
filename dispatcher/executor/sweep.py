"""What a dead executor's runs left behind, found among all processes: none of them is our child."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from dispatcher import wire
from dispatcher.executor.attribution import markers
from dispatcher.executor.kernel import Kernel
from dispatcher.executor.outputs import Outputs
from dispatcher.executor.procfs import Process
from dispatcher.executor.run import Run
from dispatcher.executor.tree import ABSENT, Look, Present, Unknown
from dispatcher.marks import by_mark

#: Ticks of a second in /proc; an instant times this is comparable with a start.
TICKS = os.sysconf("SC_CLK_TCK")

Owners = dict[int, wire.RunUid]
Everyone = dict[int, Process]


@dataclass(slots=True)
class _Scan:
    found: dict[wire.RunUid, Everyone]
    unread: list[str] = field(default_factory=list)
    """Processes that may be of runs without a mark."""
    hidden: dict[wire.RunUid, str] = field(default_factory=dict)
    """Runs whose leader may still be there, and why nobody can say."""


class Survivors:
    """Finds the processes of runs that an executor before this one started."""

    def __init__(self, kernel: Kernel, outputs: Outputs) -> None:
        self._kernel = kernel
        self._outputs = outputs

    def look(self, runs: Collection[Run]) -> dict[wire.RunUid, Look]:
        """Look at what is left of each run; two scans must agree that there is nothing."""
        first, second = self._scan(runs), self._scan(runs)
        looks: dict[wire.RunUid, Look] = {}
        for run in runs:
            processes = first.found[run.uid] | second.found[run.uid]
            unread = () if run.marked else (first.unread + second.unread)[:1]
            if processes:
                looks[run.uid] = Present([*processes.values()])
            elif why := second.hidden.get(run.uid) or "".join(unread):
                looks[run.uid] = Unknown(why)
            else:
                looks[run.uid] = ABSENT
        return looks | self._writers([run for run in runs if looks[run.uid] is ABSENT])

    def unlisted(self, known: Iterable[wire.RunUid], state_dir: str) -> list[wire.RunUid]:
        """Return this node's runs that have processes and are not known: their journal was lost.

        The names of the output files say which marks are this node's. But files may be copies,
        beside an original that works on: files older than this node are another's, and so is what
        another executor that lives is the ancestor of.
        """
        runs = by_mark(set(_younger_outputs(state_dir)) - set(known))
        everyone = self._everyone()
        spared = self._below_others(everyone, runs)
        marks = {self._kernel.mark(pid) for pid in everyone if pid not in spared}
        return [uid for mark, uid in runs.items() if mark in marks]

    def _below_others(self, everyone: Everyone, runs: Collection[int]) -> Owners:
        """Return what another dispatcher's executor is the ancestor of.

        Not another's: one that we run below, and one that runs in a run of these marks.
        """
        ours, pid = {self._kernel.pid}, self._kernel.pid
        while (process := self._kernel.look(pid)) is not None and process.parent not in ours:
            ours.add(pid := process.parent)
        found = {
            pid: wire.RunUid("")
            for pid in everyone.keys() - ours
            if self._kernel.is_executor(pid) and self._kernel.mark(pid) not in runs
        }
        _follow_lineage(found, everyone)
        return found

    def _scan(self, runs: Collection[Run]) -> _Scan:
        everyone = self._everyone()
        scan = _Scan({run.uid: {} for run in runs})
        owners = self._by_identity(runs, everyone, scan)
        marks = by_mark(scan.found)
        for process in everyone.values():
            mark = self._kernel.mark(process.pid) or 0
            if (uid := marks.get(mark)) is not None:
                owners[process.pid] = uid
            elif process.pid not in owners:
                environment = self._kernel.environment(process)
                if environment is None:
                    scan.unread.append(f"{process.name} ({process.pid}) cannot be read yet")
                for uid in markers(environment or b"") & scan.found.keys():
                    owners[process.pid] = uid
        _follow_lineage(owners, everyone)
        for pid, owner in owners.items():
            scan.found[owner][pid] = everyone[pid]
        return scan

    def _by_identity(self, runs: Collection[Run], everyone: Everyone, scan: _Scan) -> Owners:
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
            # As long as anyone is in it, a session's number is not given away. So the leader
            # vouches for all, or one member from when the leader was surely not yet reaped.
            last = (run.held_until or 0.0) * TICKS
            if leader is None:
                is_ours = any(0 <= one.start_ticks < last for one in members[run.pid])
            else:
                is_ours = leader.start_ticks == run.start_ticks
                if leader.opaque and self._kernel.may_signal(leader.pid):
                    scan.hidden[run.uid] = f"/proc does not show who has its first pid {run.pid}"
            if is_ours:
                owners |= {member.pid: run.uid for member in members[run.pid]}
        return owners

    def _everyone(self) -> Everyone:
        looked = map(self._kernel.look, self._kernel.everyone())
        return {p.pid: p for p in looked if p and p.alive and p.pid != self._kernel.pid}

    def _writers(self, runs: Collection[Run]) -> dict[wire.RunUid, Look]:
        """Return who writes to the outputs that are still locked, of these runs."""
        locked = {
            file: run.uid
            for run in runs
            if self._outputs.is_locked(run.output_path)
            and (file := self._outputs.identity(run.output_path))
        }
        found: dict[wire.RunUid, list[Process]] = {uid: [] for uid in locked.values()}
        for process in self._everyone().values() if locked else ():
            if file := self._kernel.written(process.pid, locked):
                found[locked[file]].append(process)
        held = "its output file is locked, and no process is seen that writes to it"
        return {uid: Present(some) if some else Unknown(held) for uid, some in found.items()}


def _younger_outputs(state_dir: str) -> Iterable[wire.RunUid]:
    """Yield the runs whose outputs are not older than this node."""
    with suppress(FileNotFoundError):
        born = os.stat(f"{state_dir}/node-id").st_mtime_ns
        for output in os.scandir(f"{state_dir}/output"):
            if output.stat(follow_symlinks=False).st_mtime_ns >= born:
                yield wire.RunUid(output.name.removesuffix(".log"))


def _follow_lineage(owners: Owners, everyone: Everyone) -> None:
    """Let every process belong to whom its parent belongs."""
    children: dict[int, list[int]] = defaultdict(list)
    for process in everyone.values():
        children[process.parent].append(process.pid)
    found = list(owners)
    for pid in found:  # it grows while we go through it
        for child in children[pid]:
            if child not in owners:
                owners[child] = owners[pid]
                found.append(child)
