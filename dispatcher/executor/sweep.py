"""What a dead executor's runs left behind: looked for among all processes, as none is our child."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection

from dispatcher import wire
from dispatcher.executor.kernel import Kernel, Process
from dispatcher.executor.outputs import Outputs
from dispatcher.executor.run import Run
from dispatcher.executor.tree import Found, marked

#: Ticks of a second in /proc; an instant times this is comparable with a start.
TICKS = os.sysconf("SC_CLK_TCK")

Owners = dict[int, wire.RunUid]
Everyone = dict[int, Process]


class Survivors:
    """Finds the processes of runs that an executor before this one started."""

    def __init__(self, kernel: Kernel, outputs: Outputs) -> None:
        self._kernel = kernel
        self._outputs = outputs

    def find(self, runs: Collection[Run]) -> dict[wire.RunUid, Found]:
        """Return what is left of each run; two scans must agree that there is nothing."""
        first, first_clean = self._scan(runs)
        second, second_clean = self._scan(runs)
        clean = first_clean and second_clean
        found = {
            run.uid: Found([*(first[run.uid] | second[run.uid]).values()], clean) for run in runs
        }
        hidden = [run for run in runs if not found[run.uid].processes]
        return found | self._writers(hidden)

    def _scan(self, runs: Collection[Run]) -> tuple[dict[wire.RunUid, Everyone], bool]:
        everyone = self._everyone()
        owners = self._by_identity(runs, everyone)
        uids = {run.uid for run in runs}
        clean = True
        for process in everyone.values():
            if process.pid not in owners:
                environment = self._kernel.environment(process)
                clean = clean and environment is not None
                for uid in marked(environment or b"") & uids:
                    owners[process.pid] = uid
        _follow_lineage(owners, everyone)
        found: dict[wire.RunUid, Everyone] = {run.uid: {} for run in runs}
        for pid, owner in owners.items():
            found[owner][pid] = everyone[pid]
        return found, clean

    def _by_identity(self, runs: Collection[Run], everyone: Everyone) -> Owners:
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
                is_ours = any(member.start_ticks < last for member in members[run.pid])
            else:
                is_ours = leader.start_ticks == run.start_ticks
            if is_ours:
                owners |= {member.pid: run.uid for member in members[run.pid]}
        return owners

    def _everyone(self) -> Everyone:
        looked = map(self._kernel.look, self._kernel.everyone())
        return {p.pid: p for p in looked if p and p.alive and p.pid != self._kernel.pid}

    def _writers(self, runs: Collection[Run]) -> dict[wire.RunUid, Found]:
        """Return who writes to the outputs that are still locked, of these runs."""
        locked = {
            file: run.uid
            for run in runs
            if self._outputs.is_locked(run.output_path)
            and (file := self._outputs.identity(run.output_path))
        }
        found = {uid: Found([], clean=False) for uid in locked.values()}
        for process in self._everyone().values() if locked else ():
            if file := self._kernel.written(process.pid, locked):
                found[locked[file]].processes.append(process)
        return found


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
