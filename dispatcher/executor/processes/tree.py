"""The processes of the runs that this executor started.

Our children are the leaders and, because this process is a subreaper, every orphan of their trees.
A leader's descendants are its run's by lineage. An orphan is attributed once; as long as it is our
unreaped child, no other process can have its pid.

Why an empty scan proves something: once its leader is dead, the topmost living process of a run
is our child. Our list of children loses only what we reap, and grows at its end.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from dispatcher import wire
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.processes.answers import ABSENT, Look, Present, Unknown
from dispatcher.executor.processes.attribution import INIT, Attribution, NotReadYet, Suspects
from dispatcher.executor.processes.walk import LEAST_SHARE, LOOKS_PER_TICK, Walk
from dispatcher.executor.reports import Reporter
from dispatcher.executor.run import TrackedRun
from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.procfs import Identity
from dispatcher.times import Instant

#: Seconds for which an unreadable environment is read again. An exec takes milliseconds.
ENVIRONMENT_PATIENCE = 1.0

#: Scans in one tick. Two suffice unless orphans of the same run die and are reaped meanwhile.
MOST_SCANS = 4

#: New orphans without a mark that are attributed in one tick: each takes several looks.
ATTRIBUTIONS_PER_TICK = 128

#: Dead orphans that are reaped in one tick, 14 us each. One that lives costs 1 us.
REAPS_PER_TICK = 256

_JUST_DIED = "one of its processes has just died, and may have left others"
_NOT_LOOKED_AT = "there are more new processes than could be looked at yet"


@dataclass(slots=True, eq=False)
class Orphan:
    """An attributed child of ours: of one run, of one of several (a stray), or of none."""

    pid: int
    candidates: set[wire.RunUid]
    """Runs that it may be of and that are not gone."""

    @property
    def owner(self) -> wire.RunUid | None:
        """The run that it is of; a stray is the last candidate's."""
        return next(iter(self.candidates)) if len(self.candidates) == 1 else None


@dataclass(slots=True)
class Scan:
    """One look at our children."""

    owned: defaultdict[wire.RunUid, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Pids of living orphans, by run."""
    unclear: dict[wire.RunUid, str] = field(default_factory=dict)
    """Why this scan proves nothing about a run."""
    reaped: int = 0
    incomplete: bool = False
    """Whether some orphans have not been looked at."""

    def mark_unclear(self, candidates: Iterable[wire.RunUid], why: str) -> None:
        """Record that runs may have a process which this scan does not show."""
        self.unclear |= dict.fromkeys(candidates, why)

    def record_reaped(self, candidates: Iterable[wire.RunUid]) -> None:
        """Record that a run's process died: its own children may be missing in this scan."""
        self.reaped += 1
        self.mark_unclear(candidates, _JUST_DIED)


class Tree:
    """Finds the processes of the runs that this executor started."""

    def __init__(
        self,
        kernel: Kernel,
        outputs: OutputFiles,
        runs: Mapping[wire.RunUid, TrackedRun],
        report: Reporter,
    ) -> None:
        self._kernel = kernel
        self._outputs = outputs
        self._runs = runs
        self._report = report
        self._orphans: dict[int, Orphan] = {}
        self._strays: dict[int, Orphan] = {}
        self._seen: dict[Identity, wire.RunUid] = {}
        self._seen_of: defaultdict[wire.RunUid, set[Identity]] = defaultdict(set)
        self._attribution = Attribution(kernel, outputs, self._seen)
        self._unread: dict[int, Instant] = {}
        self._scans: list[Scan] = []
        self._walks: dict[wire.RunUid, Walk] = {}
        self._attributions = ATTRIBUTIONS_PER_TICK
        self._reaps = REAPS_PER_TICK
        self.share = LOOKS_PER_TICK
        """Processes of one run that may be looked at in this tick, and signalled."""
        self.behind = False
        """Whether orphans are left to be attributed or reaped in the next tick."""

    def new_tick(self) -> None:
        """Discard the scans of the last tick; all decisions of one tick share its scans."""
        self._scans.clear()
        self._attributions, self._reaps = ATTRIBUTIONS_PER_TICK, REAPS_PER_TICK
        self.behind = False

    def share_among(self, runs: int) -> None:
        """Give each of so many runs the same share of a tick: a huge tree delays no small one."""
        self.share = max(LEAST_SHARE, LOOKS_PER_TICK // max(1, runs))

    def look(self, run: TrackedRun, at: Instant) -> Look:
        """Look at a run's tree; two clear scans in a row must agree that nothing is left.

        A walk that has begun goes on where it stopped, until `end_walk`. That takes no scan.
        """
        walk = self._walks.get(run.uid)
        if walk is not None and self._go_on(run, walk, lambda: self._own(run, self._scan(0, at))):
            return Present(walk.found)
        clear, why = False, ""
        for number in range(MOST_SCANS):
            scan = self._scan(number, at)
            if own := self._own(run, scan):
                walk = self.begin_walk(run, at)
                if self._go_on(run, walk, partial(list, own)):
                    return Present(walk.found)
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
        """Reap dead orphans, and attribute new ones while the evidence is still there.

        Return how many were dead.
        """
        try:
            return self._scan(0, at).reaped
        except OSError as error:
            self._report.shortage(error, at)
            return 0

    def begin_walk(self, run: TrackedRun, at: Instant) -> Walk:
        """Begin at the root of a run's tree, whatever was found before; look() goes on with it."""
        stop = partial(run.kills.stop, self._kernel) if run.kills.freezing else None
        walk = self._walks[run.uid] = Walk(self._kernel, at, stop)
        return walk

    def end_walk(self, run: TrackedRun) -> None:
        """Begin anew at the next look at a run."""
        self._walks.pop(run.uid, None)

    def interrupt_walk(self, run: TrackedRun) -> None:
        """Begin anew, unless all are found: some of those may have got the kill signal already."""
        walk = self._walks.get(run.uid)
        if walk is not None and not walk.whole:
            self.end_walk(run)

    def walk(self, run: TrackedRun) -> Walk | None:
        """Return the walk through a run's tree that has begun and was not ended."""
        return self._walks.get(run.uid)

    def leave_alone(self, run: TrackedRun) -> None:
        """Attribute a run's leftovers, and what they start, to no run from now on."""
        self._attribution.left_alone.add(run)

    @property
    def may_get_orphans(self) -> bool:
        """Whether we may have to reap orphans of no tracked run.

        The init of a container may get anybody's at any time.
        """
        left_alone = self._attribution.left_alone and self._orphans
        return self._kernel.pid == INIT or bool(left_alone)

    def forget(self, run: TrackedRun) -> None:
        """Drop all records of a run that is gone; its strays are the other candidates' now."""
        self.end_walk(run)
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
        # Those that could not be read are tried again after all others had their turn.
        pids = sorted(self._kernel.orphans(), key=self._unread.__contains__)
        known, self._orphans = self._orphans, {}
        suspects: Suspects | None = None
        for pid in pids:
            orphan = known.get(pid)
            if orphan is None:
                suspects = suspects or Suspects(self._runs.values(), self._outputs)
                orphan = self._attribute(pid, suspects, scan, at)
                if orphan is None:
                    continue
            if self._reap_if_dead(pid):
                scan.record_reaped(orphan.candidates)
                continue
            self._orphans[pid] = orphan
            if orphan.owner is not None:
                scan.owned[orphan.owner].append(pid)
        if scan.incomplete and suspects is not None:
            scan.mark_unclear(suspects.uids, _NOT_LOOKED_AT)
        if self._unread:
            self._unread = {p: self._unread[p] for p in pids if p in self._unread}
        if self._strays:
            self._strays = {p: stray for p, stray in self._strays.items() if p in self._orphans}
        return scan

    def _reap_if_dead(self, pid: int) -> bool:
        """Reap a dead orphan; one too many for this tick counts as alive until the next."""
        if self._reaps <= 0:
            self.behind = True
            return False
        reaped = self._kernel.reap_if_dead(pid)
        self._reaps -= reaped
        return reaped

    def _attribute(self, pid: int, suspects: Suspects, scan: Scan, at: Instant) -> Orphan | None:
        """Attribute a new orphan; None if it is not of any run, or cannot be read yet."""
        mark = self._kernel.mark(pid)
        marked = suspects.by_mark.get(mark or 0)
        if marked is not None:  # a mark suffices, and is read at once: most of a storm of forks
            return Orphan(pid, {marked})
        if self._attributions <= 0:
            scan.incomplete = self.behind = True
            return None
        self._attributions -= 1
        process = self._kernel.look(pid)
        # Every leader makes a session of its own: a process in ours belongs to no run.
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
            why = f"{process.name} ({pid}) cannot be read yet"
            scan.mark_unclear(suspects.alive_at(process), why)
            return None
        orphan = Orphan(pid, set(candidates))
        if len(candidates) > 1 and process.alive:
            self._strays[pid] = orphan
            self._report.stray(process, candidates)
        return orphan

    def _may_wait(self, pid: int, at: Instant) -> bool:
        return at - self._unread.get(pid, at) < ENVIRONMENT_PATIENCE

    def _own(self, run: TrackedRun, scan: Scan) -> list[int]:
        """Return our children that are a run's; if there are none, no process is below us."""
        orphans = scan.owned[run.uid]
        return [*orphans, run.pid] if run.leader_lives and run.pid is not None else orphans

    def _go_on(self, run: TrackedRun, walk: Walk, own: Callable[[], list[int]]) -> bool:
        """Go on with a walk; False if it is over and has found no process."""
        found = walk.go_on(own, self.share)
        # Each is remembered from here until the run is gone, as it may drop all evidence before it
        # becomes an orphan. No process is signalled before its children were seen.
        # An opaque process has no identity that would outlive its pid.
        identities = {one.identity for one in found if not one.opaque}
        self._seen |= dict.fromkeys(identities, run.uid)
        self._seen_of[run.uid] |= identities
        if walk.whole and not walk.found:
            self.end_walk(run)
            return False
        return True
