"""Which processes belong to which run.

Our children are the leaders and, because this process is a subreaper, every orphan of their trees.
A leader's descendants are its run's by lineage. An orphan is attributed once; as long as it is our
unreaped child its pid cannot be anyone else's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from dispatcher import wire
from dispatcher.executor.kernel import File, Kernel, Process
from dispatcher.executor.outputs import Outputs
from dispatcher.executor.run import Phase, Run
from dispatcher.times import Instant

#: Seconds for which an unreadable environment is asked again. An exec takes milliseconds.
ENVIRONMENT_PATIENCE = 1.0

#: Scans in one tick. Two suffice unless orphans die and are reaped meanwhile.
MOST_SCANS = 4

#: Runs whose leftovers were left alone and are known as such: those that ended last.
MOST_LEFT = 10_000

#: Pid and start ticks: nobody else ever has both.
Identity = tuple[int, int]

_MARKERS = (wire.MARKER.encode() + b"=", wire.OUTER_MARKER.encode() + b"=")


class Found(NamedTuple):
    """The processes of a run. Nothing, and clean: the tree is gone."""

    processes: list[Process]
    clean: bool


@dataclass(slots=True, eq=False)
class Orphan:
    """An attributed child of ours: of one run, or of one of several (a stray)."""

    process: Process
    candidates: set[wire.RunUid]
    """Runs that it may be of and that are not gone."""

    @property
    def owner(self) -> wire.RunUid | None:
        """Whose it is: a stray is the last candidate's."""
        return next(iter(self.candidates)) if len(self.candidates) == 1 else None


@dataclass(slots=True)
class Scan:
    """One look at our children."""

    owned: defaultdict[wire.RunUid, list[Process]] = field(
        default_factory=lambda: defaultdict(list)
    )
    clean: bool = True
    """Every orphan was attributed, and none was reaped: that one may just have left us others."""


class Living:
    """The runs that an orphan may be of, by what would give it away."""

    def __init__(self, runs: Iterable[Run], outputs: Outputs) -> None:
        self._outputs = outputs
        self._runs = [
            run for run in runs if run.pid and not run.inherited and run.phase < Phase.GONE
        ]
        self.by_leader = {run.pid: run.uid for run in self._runs}
        self.uids = {run.uid for run in self._runs}

    @cached_property
    def by_output(self) -> dict[File, wire.RunUid]:
        """The runs by their output files: asked for seldom, and each must be looked up."""
        identities = [(self._outputs.identity(run.output_path), run.uid) for run in self._runs]
        return {file: uid for file, uid in identities if file is not None}

    def alive_at(self, ticks: int) -> tuple[wire.RunUid, ...]:
        """Return who had started by then, the latest last."""
        return tuple(run.uid for run in self._runs if (run.start_ticks or 0) <= ticks)


def marked(environment: bytes) -> set[wire.RunUid]:
    """Return the uids of the runs, inner and outer, that an environment names."""
    uids: set[wire.RunUid] = set()
    for variable in environment.split(b"\0"):
        if variable.startswith(_MARKERS):
            names = variable.partition(b"=")[2].decode(errors="replace")
            uids.update(map(wire.RunUid, names.split(":")))
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
        self._strays: dict[int, Orphan] = {}
        self._seen: dict[Identity, wire.RunUid] = {}
        self._seen_of: defaultdict[wire.RunUid, set[Identity]] = defaultdict(set)
        self._unread: dict[int, Instant] = {}
        self._scans: list[Scan] = []
        self._left: dict[int, wire.RunUid] = {}

    def new_tick(self) -> None:
        """Forget the scans of the tick before: all that is decided in one tick shares two."""
        self._scans.clear()

    def find(self, run: Run, at: Instant) -> Found:
        """Return the run's processes; two clean scans on end must agree that there are none."""
        clean = False
        for number in range(MOST_SCANS):
            scan = self._scan(number, at)
            # Looked at again: it may have left its group and session since it was attributed.
            owned = [self._kernel.look(process.pid) for process in scan.owned.get(run.uid, ())]
            found = self._lineage(run, [process for process in owned if process is not None])
            if found or (clean and scan.clean):
                return Found(found, clean=True)
            clean = scan.clean
        return Found([], clean=False)

    def survey(self, at: Instant) -> None:
        """Reap dead orphans and attribute new ones while what tells their owner is still there."""
        self._scan(0, at)

    def leave_alone(self, run: Run) -> None:
        """Take what is left of a run, and what it will start, for nobody's from now on."""
        if run.pid is not None:
            self._left[run.pid] = run.uid
        if len(self._left) > MOST_LEFT:
            del self._left[next(iter(self._left))]

    @property
    def has_left(self) -> bool:
        """Whether a process that was left alone is our child: it is reaped when it dies."""
        return bool(self._left and self._orphans)

    def forget(self, run: Run) -> None:
        """Drop what was remembered of a run that is gone; what may have been its is another's."""
        for identity in self._seen_of.pop(run.uid, ()):
            self._seen.pop(identity, None)
        for stray in self._strays.values():
            if run.uid in stray.candidates:
                stray.candidates.discard(run.uid)
                if stray.owner is not None:
                    for scan in self._scans:
                        scan.owned[stray.owner].append(stray.process)

    def _scan(self, number: int, at: Instant) -> Scan:
        while len(self._scans) <= number:
            self._scans.append(self._look_at_children(at))
        return self._scans[number]

    def _look_at_children(self, at: Instant) -> Scan:
        scan = Scan()
        pids = self._kernel.orphans()
        known, self._orphans = self._orphans, {}
        living: Living | None = None
        for pid in pids:
            orphan = known.get(pid)
            process = orphan.process if orphan else self._kernel.look(pid)
            # Every leader made a session of its own: what is in ours was not born of a run.
            if process is None or process.session == self._kernel.session:
                continue
            if self._kernel.reap_if_dead(pid):
                scan.clean = False
                continue
            if orphan is None:
                living = living or Living(self._runs.values(), self._outputs)
                orphan = self._attribute(process, living, at)
            if orphan is None:
                scan.clean = False
                continue
            self._orphans[pid] = orphan
            if orphan.owner is not None:
                scan.owned[orphan.owner].append(process)
        if self._unread:
            self._unread = {pid: since for pid, since in self._unread.items() if pid in pids}
        if self._strays:
            self._strays = {p: stray for p, stray in self._strays.items() if p in self._orphans}
        return scan

    def _attribute(self, process: Process, living: Living, at: Instant) -> Orphan | None:
        """Find out whose a new orphan is; None when it could not be asked yet."""
        uid = self._seen.get((process.pid, process.start_ticks))
        # The leader is not reaped before its run is gone: no other session can have its number.
        uid = uid or living.by_leader.get(process.session) or living.by_leader.get(process.group)
        if uid is None and (process.session in self._left or process.group in self._left):
            return Orphan(process, set())
        if uid is None:
            environment = self._kernel.environment(process)
            if environment is None:
                since = self._unread.setdefault(process.pid, at)
                if at - since < ENVIRONMENT_PATIENCE:
                    return None
            uids = marked(environment or b"")
            uid = next(iter(living.uids & uids), None)
            if uid is None and not uids.isdisjoint(self._left.values()):
                return Orphan(process, set())
        if uid is None:
            file = self._kernel.written(process.pid, living.by_output)
            uid = living.by_output[file] if file is not None else None
        if uid is not None:
            return Orphan(process, {uid})
        candidates = living.alive_at(process.start_ticks)
        orphan = Orphan(process, set(candidates))
        if len(candidates) > 1:
            self._strays[process.pid] = orphan
            self._on_stray(process, candidates)
        return orphan

    def _lineage(self, run: Run, found: list[Process]) -> list[Process]:
        """Return these processes and the living leader, with all their descendants."""
        if run.leader_lives and run.pid is not None:
            leader = self._kernel.look(run.pid)
            found = [*found, leader] if leader else found
        for process in found:  # it grows while we go through it
            found.extend(self._children(process))
        if found:
            identities = {(process.pid, process.start_ticks) for process in found}
            self._seen |= dict.fromkeys(identities, run.uid)
            self._seen_of[run.uid] |= identities
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
