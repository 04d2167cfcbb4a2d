"""What a dead executor's runs left behind: looked for among all processes, as none is our child."""

from __future__ import annotations

import os
from collections.abc import Collection

from dispatcher import wire
from dispatcher.executor.kernel import Kernel, Process
from dispatcher.executor.outputs import Outputs
from dispatcher.executor.run import Run
from dispatcher.executor.tree import Found, marked

#: Ticks of a second in /proc; an instant times this is comparable with a start.
TICKS = os.sysconf("SC_CLK_TCK")


class Survivors:
    """Finds the processes of runs that an executor before this one started."""

    def __init__(self, kernel: Kernel, outputs: Outputs) -> None:
        self._kernel = kernel
        self._outputs = outputs

    def find(self, runs: Collection[Run]) -> dict[wire.RunUid, Found]:
        """Return what is left of each run; two scans must agree that there is nothing."""
        try:
            return self._find(runs)
        except OSError:  # not even a descriptor to look with
            return {run.uid: Found([], clean=False) for run in runs}

    def _find(self, runs: Collection[Run]) -> dict[wire.RunUid, Found]:
        first, first_clean = self._scan(runs)
        second, second_clean = self._scan(runs)
        clean = first_clean and second_clean
        found = {}
        for run in runs:
            left = {process.pid: process for process in first[run.uid] + second[run.uid]}
            if not left and self._outputs.is_locked(run.output_path):
                left = {process.pid: process for process in self._writers(run)}
                clean_here = False
            else:
                clean_here = clean
            found[run.uid] = Found(list(left.values()), clean_here)
        return found

    def _scan(self, runs: Collection[Run]) -> tuple[dict[wire.RunUid, list[Process]], bool]:
        everyone = self._everyone()
        owners: dict[int, wire.RunUid] = {}
        clean = True
        for run in runs:
            owners |= dict.fromkeys(_by_identity(run, everyone), run.uid)
        uids = {str(run.uid) for run in runs}
        for process in everyone.values():
            if process.pid in owners:
                continue
            environment = self._kernel.environment(process)
            clean = clean and environment is not None
            for uid in marked(environment or b"") & uids:
                owners[process.pid] = wire.RunUid(uid)
        _follow_lineage(owners, everyone)
        found: dict[wire.RunUid, list[Process]] = {run.uid: [] for run in runs}
        for pid, owner in owners.items():
            found[owner].append(everyone[pid])
        return found, clean

    def _everyone(self) -> dict[int, Process]:
        looked = map(self._kernel.look, self._kernel.everyone())
        return {p.pid: p for p in looked if p and p.alive and p.pid != self._kernel.pid}

    def _writers(self, run: Run) -> list[Process]:
        file = self._outputs.identity(run.output_path)
        if file is None:
            return []
        return [p for p in self._everyone().values() if self._kernel.holds(p.pid, file)]


def _by_identity(run: Run, everyone: dict[int, Process]) -> list[int]:
    """Return the leader, and its session and group as far as these are surely still its own."""
    if run.pid is None:
        return []
    leader = everyone.get(run.pid)
    members = [p for p in everyone.values() if run.pid in {p.session, p.group}]
    if leader is not None and leader.start_ticks == run.start_ticks:
        return [run.pid, *(p.pid for p in members)]
    if leader is not None:
        return []  # the pid is somebody else's now, and so are session and group
    # As long as anyone is in it, a session's number is not given away. So one member from when
    # the leader was not yet reaped vouches for all.
    last = (run.held_until or 0.0) * TICKS
    return [p.pid for p in members] if any(p.start_ticks < last for p in members) else []


def _follow_lineage(owners: dict[int, wire.RunUid], everyone: dict[int, Process]) -> None:
    """Let every process belong to whom its parent belongs."""
    children: dict[int, list[int]] = {}
    for process in everyone.values():
        children.setdefault(process.parent, []).append(process.pid)
    found = list(owners)
    for pid in found:  # it grows while we go through it
        for child in children.get(pid, ()):
            if child not in owners:
                owners[child] = owners[pid]
                found.append(child)
