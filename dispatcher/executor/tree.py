"""The processes of the runs that this executor started.

Our children are the leaders and, because this process is a subreaper, every orphan of their trees.
A leader's descendants are its run's by lineage. An orphan is attributed once; as long as it is our
unreaped child its pid cannot be anyone else's.

Why an empty scan proves something: once its leader is dead, the topmost living process of a run
is our child. Our list of children loses only what we reap, and grows at its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dispatcher import wire
from dispatcher.executor.attribution import INIT, Attribution, NotReadYet, Suspects
from dispatcher.executor.kernel import Kernel
from dispatcher.executor.outputs import Outputs
from dispatcher.executor.procfs import Process
from dispatcher.executor.run import Run
from dispatcher.times import Instant

#: Seconds for which an unreadable environment is read again. An exec takes milliseconds.
ENVIRONMENT_PATIENCE = 1.0

#: Scans in one tick. Two suffice unless orphans of the same run die and are reaped meanwhile.
MOST_SCANS = 4

_JUST_DIED = "one of its processes has just died, and may have left others"

#: Pid and start ticks: nobody else ever has both.
Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Present:
    """These processes of the run live."""

    processes: list[Process]


@dataclass(frozen=True, slots=True)
class Absent:
    """The run has no process left: proved, not merely not seen."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing of the run was seen, and that proves nothing."""

    why: str


#: The three answers of a look at a run's tree (PROTOCOL 2.10).
Look = Present | Absent | Unknown

ABSENT = Absent()


@dataclass(slots=True, eq=False)
class Orphan:
    """An attributed child of ours: of one run, of one of several (a stray), or of none."""

    pid: int
    candidates: set[wire.RunUid]
    """Runs that it may be of and that are not gone."""

    @property
    def owner(self) -> wire.RunUid | None:
        """Whose it is: a stray is the last candidate's."""
        return next(iter(self.candidates)) if len(self.candidates) == 1 else None


@dataclass(slots=True)
class Scan:
    """One look at our children."""

    owned: defaultdict[wire.RunUid, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Pids of living orphans, by run."""
    unclear: dict[wire.RunUid, str] = field(default_factory=dict)
    """Why this scan proves nothing about a run."""
    reaped: int = 0

    def doubt(self, candidates: Iterable[wire.RunUid], why: str) -> None:
        """Note that a run may have a process which this scan does not show."""
        self.unclear |= dict.fromkeys(candidates, why)

    def note_reaped(self, candidates: Iterable[wire.RunUid]) -> None:
        """Note that a run's process died: what it left us may be missing in this scan."""
        self.reaped += 1
        self.doubt(candidates, _JUST_DIED)


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
        self._attribution = Attribution(kernel, outputs, self)
        self._orphans: dict[int, Orphan] = {}
        self._strays: dict[int, Orphan] = {}
        self._seen: dict[Identity, wire.RunUid] = {}
        self._seen_of: defaultdict[wire.RunUid, set[Identity]] = defaultdict(set)
        self._unread: dict[int, Instant] = {}
        self._scans: list[Scan] = []

    def new_tick(self) -> None:
        """Forget the scans of the tick before: all that is decided in one tick shares two."""
        self._scans.clear()

    def look(self, run: Run, at: Instant) -> Look:
        """Look at a run's tree; two clear scans in a row must agree that nothing is left."""
        clear, why = False, ""
        for number in range(MOST_SCANS):
            scan = self._scan(number, at)
            found = self._lineage(run, [*self._own_children(scan.owned[run.uid])])
            if found:
                return Present(found)
            why = scan.unclear.get(run.uid, "")
            if clear and not why:
                break
            clear = not why
        else:
            return Unknown(why or "its processes come and go")
        if run.leader_lives:
            return Unknown(f"its first process ({run.pid}) exists and is not shown")
        return ABSENT

    def survey(self, at: Instant) -> int:
        """Reap dead orphans, and attribute new ones while what gives them away is still there.

        Return how many were dead.
        """
        return self._scan(0, at).reaped

    def leave_alone(self, run: Run) -> None:
        """Take what is left of a run, and what it will start, for nobody's from now on."""
        self._attribution.left_alone.add(run)

    @property
    def has_left(self) -> bool:
        """Whether a process that was left alone is our child: it is reaped when it dies.

        As the init of a container, anybody's may be at any time.
        """
        left_alone = self._attribution.left_alone and self._orphans
        return self._kernel.pid == INIT or bool(left_alone)

    def owner(self, process: Process) -> wire.RunUid | None:
        """Return the run that a process was seen below."""
        return self._seen.get((process.pid, process.start_ticks))

    def forget(self, run: Run) -> None:
        """Drop what was remembered of a run that is gone; what may have been its is another's."""
        for identity in self._seen_of.pop(run.uid, ()):
            self._seen.pop(identity, None)
        for stray in self._strays.values():
            if run.uid in stray.candidates:
                stray.candidates.discard(run.uid)
                if stray.owner is not None:
                    for scan in self._scans:
                        scan.owned[stray.owner].append(stray.pid)

    def _scan(self, number: int, at: Instant) -> Scan:
        while len(self._scans) <= number:
            self._scans.append(self._look_at_children(at))
        return self._scans[number]

    def _look_at_children(self, at: Instant) -> Scan:
        scan = Scan()
        pids = self._kernel.orphans()
        known, self._orphans = self._orphans, {}
        suspects: Suspects | None = None
        for pid in pids:
            orphan = known.get(pid)
            if orphan is None:
                suspects = suspects or Suspects(self._runs.values(), self._outputs)
                orphan = self._meet(pid, suspects, scan, at)
                if orphan is None:
                    continue
            if self._kernel.reap_if_dead(pid):
                scan.note_reaped(orphan.candidates)
                continue
            self._orphans[pid] = orphan
            if orphan.owner is not None:
                scan.owned[orphan.owner].append(pid)
        if self._unread:
            self._unread = {pid: since for pid, since in self._unread.items() if pid in pids}
        if self._strays:
            self._strays = {p: stray for p, stray in self._strays.items() if p in self._orphans}
        return scan

    def _meet(self, pid: int, suspects: Suspects, scan: Scan, at: Instant) -> Orphan | None:
        """Attribute a new orphan; None if it is not of any run, or cannot be read yet."""
        mark = self._kernel.mark(pid)
        marked = suspects.by_mark.get(mark or 0)
        if marked is not None and self._kernel.reap_if_dead(pid):  # most of a storm of forks
            scan.note_reaped((marked,))
            return None
        process = self._kernel.look(pid)
        # Every leader made a session of its own: what is in ours was not born of a run.
        if process is None or process.session == self._kernel.session:
            if self._kernel.pid == INIT:
                self._kernel.reap_if_dead(pid)
            return None
        try:
            candidates = self._attribution.candidates(
                process, mark, suspects, patient=process.alive and self._may_wait(pid, at)
            )
        except NotReadYet:
            self._unread.setdefault(pid, at)
            scan.doubt(suspects.alive_at(process), f"{process.name} ({pid}) cannot be read yet")
            return None
        orphan = Orphan(pid, set(candidates))
        if len(candidates) > 1 and process.alive:
            self._strays[pid] = orphan
            self._on_stray(process, candidates)
        return orphan

    def _may_wait(self, pid: int, at: Instant) -> bool:
        return at - self._unread.get(pid, at) < ENVIRONMENT_PATIENCE

    def _lineage(self, run: Run, found: list[Process]) -> list[Process]:
        """Return these processes and the living leader, with all their descendants."""
        if run.leader_lives and run.pid is not None:
            found += self._own_children([run.pid])
        for process in found:  # it grows while we go through it
            found.extend(self._children(process))
        if found:
            # An opaque process has no identity that would outlive its pid.
            identities = {(p.pid, p.start_ticks) for p in found if not p.opaque}
            self._seen |= dict.fromkeys(identities, run.uid)
            self._seen_of[run.uid] |= identities
        return found

    def _own_children(self, pids: Iterable[int]) -> Iterable[Process]:
        """Look at children of ours: they may have left their group and session since."""
        for pid in pids:
            if (process := self._kernel.look(pid)) is not None:
                yield process._replace(parent=self._kernel.pid)

    def _children(self, parent: Process) -> Iterable[Process]:
        children = [self._kernel.look(pid) for pid in self._kernel.children(parent.pid)]
        if not children:
            return ()
        # If the parent is still itself, its children were listed; if they still say so, they are.
        now = self._kernel.look(parent.pid)
        if now is None or now.start_ticks != parent.start_ticks:
            return ()
        return [
            child._replace(parent=parent.pid)
            for child in children
            if child is not None and (child.opaque or child.parent == parent.pid)
        ]
