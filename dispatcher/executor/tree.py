"""Which processes belong to which run.

Our children are the leaders and, because this process is a subreaper, every orphan of their trees.
A leader's descendants are its run's by lineage. An orphan is attributed once; as long as it is our
unreaped child its pid cannot be anyone else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dispatcher import wire
from dispatcher.executor.kernel import Kernel, Process
from dispatcher.executor.outputs import Outputs
from dispatcher.executor.run import Phase, Run
from dispatcher.times import Instant

#: Seconds for which an unreadable environment is asked again. An exec takes milliseconds.
ENVIRONMENT_PATIENCE = 1.0

#: Scans in one tick. Two suffice unless orphans die and are reaped meanwhile.
MOST_SCANS = 4

_MARKERS = (wire.MARKER.encode() + b"=", wire.OUTER_MARKER.encode() + b"=")


class Found(NamedTuple):
    """The processes of a run. Nothing, and clean: the tree is gone."""

    processes: list[Process]
    clean: bool


@dataclass(frozen=True, slots=True)
class Orphan:
    """An attributed child of ours: one owner, or several candidates (a stray)."""

    process: Process
    candidates: tuple[wire.RunUid, ...]


@dataclass(slots=True)
class Scan:
    """One look at our children."""

    orphans: list[Orphan] = field(default_factory=list)
    clean: bool = True
    """Every orphan was attributed, and none was reaped: that one may just have left us others."""


def marked(environment: bytes) -> set[str]:
    """Return the uids of the runs, inner and outer, that an environment names."""
    uids: set[str] = set()
    for variable in environment.split(b"\0"):
        if variable.startswith(_MARKERS):
            uids.update(variable.partition(b"=")[2].decode(errors="replace").split(":"))
    return uids


class Tree:
    """Finds the processes of the runs that this executor started."""

    def __init__(
        self,
        kernel: Kernel,
        outputs: Outputs,
        runs: Mapping[wire.RunUid, Run],
        *,
        on_stray: Callable[[Process, tuple[wire.RunUid, ...]], None],
    ) -> None:
        self._kernel = kernel
        self._outputs = outputs
        self._runs = runs
        self._on_stray = on_stray
        self._orphans: dict[int, Orphan] = {}
        self._seen: dict[tuple[int, int], wire.RunUid] = {}
        self._unread: dict[int, Instant] = {}
        self._scans: list[Scan] = []

    def new_tick(self) -> None:
        """Forget the scans of the tick before: all that is decided in one tick shares two."""
        self._scans.clear()

    def find(self, run: Run, at: Instant) -> Found:
        """Return the run's processes; two clean scans on end must agree that there are none."""
        clean = False
        for number in range(MOST_SCANS):
            scan = self._scan(number, at)
            found = self._lineage(run, self._owned(scan, run))
            if found or (clean and scan.clean):
                return Found(found, clean=True)
            clean = scan.clean
        return Found([], clean=False)

    def survey(self, at: Instant) -> None:
        """Reap dead orphans and attribute new ones while what tells their owner is still there."""
        self._scan(0, at)

    def forget(self, run: Run) -> None:
        """Drop what was remembered of a run that is gone."""
        if self._seen:
            self._seen = {key: uid for key, uid in self._seen.items() if uid != run.uid}

    def _owned(self, scan: Scan, run: Run) -> list[Process]:
        owned = [o.process.pid for o in scan.orphans if self._owner(o) == run.uid]
        # Looked at again: it may have left its group and session since it was attributed.
        return [process for process in map(self._kernel.look, owned) if process is not None]

    def _owner(self, orphan: Orphan) -> wire.RunUid | None:
        """Return whose it is: a stray is the last candidate's that is not gone."""
        alive = [uid for uid in orphan.candidates if self._is_live(uid)]
        return alive[0] if len(alive) == 1 else None

    def _is_live(self, uid: str) -> bool:
        run = self._runs.get(wire.RunUid(uid))
        return run is not None and run.phase < Phase.GONE

    def _scan(self, number: int, at: Instant) -> Scan:
        while len(self._scans) <= number:
            self._scans.append(self._look_at_children(at))
        return self._scans[number]

    def _look_at_children(self, at: Instant) -> Scan:
        scan = Scan()
        pids = self._kernel.orphans()
        known, self._orphans = self._orphans, {}
        for pid in pids:
            orphan = known.get(pid)
            process = orphan.process if orphan else self._kernel.look(pid)
            # Every leader made a session of its own: what is in ours was not born of a run.
            if process is None or process.session == self._kernel.session:
                continue
            if self._kernel.reap_if_dead(pid):
                scan.clean = False
                continue
            orphan = orphan or self._attribute(process, at)
            if orphan is None:
                scan.clean = False
                continue
            self._orphans[pid] = orphan
            scan.orphans.append(orphan)
        if self._unread:
            self._unread = {pid: since for pid, since in self._unread.items() if pid in pids}
        return scan

    def _attribute(self, process: Process, at: Instant) -> Orphan | None:
        """Find out whose a new orphan is; None when it could not be asked yet."""
        uid = self._seen.get((process.pid, process.start_ticks))
        live = [run for run in self._runs.values() if run.pid and not run.inherited]
        live = [run for run in live if run.phase < Phase.GONE]
        # The leader is not reaped before its run is gone: no other session can have its number.
        uid = uid or _first(live, lambda run: run.pid in {process.session, process.group})
        if uid is None:
            environment = self._kernel.environment(process)
            since = self._unread.setdefault(process.pid, at)
            if environment is None and at - since < ENVIRONMENT_PATIENCE:
                return None
            uids = marked(environment or b"")
            uid = _first(live, lambda run: run.uid in uids)
        uid = uid or _first(live, lambda run: self._writes_to(process, run))
        if uid is not None:
            return Orphan(process, (uid,))
        alive_then = [run.uid for run in live if (run.start_ticks or 0) <= process.start_ticks]
        if len(alive_then) > 1:
            self._on_stray(process, tuple(alive_then))
        return Orphan(process, tuple(alive_then))

    def _writes_to(self, process: Process, run: Run) -> bool:
        file = self._outputs.identity(run.output_path)
        return file is not None and self._kernel.holds(process.pid, file)

    def _lineage(self, run: Run, found: list[Process]) -> list[Process]:
        """Return these processes and the living leader, with all their descendants."""
        if run.leader_lives and run.pid is not None:
            leader = self._kernel.look(run.pid)
            found = [*found, leader] if leader else found
        for process in found:  # it grows while we go through it
            found.extend(self._children(process))
        self._seen |= {(process.pid, process.start_ticks): run.uid for process in found}
        return found

    def _children(self, parent: Process) -> Iterable[Process]:
        children = [self._kernel.look(pid) for pid in self._kernel.children(parent.pid)]
        if not children:
            return ()
        # If the parent is still itself, its children were listed; if they still say so, they are.
        now = self._kernel.look(parent.pid)
        if now is None or now.start_ticks != parent.start_ticks:
            return ()
        return [child for child in children if child is not None and child.parent == parent.pid]


def _first(runs: Iterable[Run], matches: Callable[[Run], bool]) -> wire.RunUid | None:
    return next((run.uid for run in runs if matches(run)), None)
