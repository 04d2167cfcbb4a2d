"""Which run a process belongs to: by its mark, then by other evidence.

The mark depends on nothing that a program can drop by accident (environment, session, output,
parents), so it comes first. The other evidence is for programs that set that limit themselves, and
for hosts where it cannot be set.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

from dispatcher import wire, worker_api
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.phases import Phase
from dispatcher.executor.run import TrackedRun
from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.procfs import File, Identity, Process
from dispatcher.host.marks import by_mark, mark_of

#: Runs whose leftovers were left alone and are known as such: those that ended last.
MOST_LEFT_ALONE = 10_000

#: The pid of the process that gets every orphan, also one that no run has started.
INIT = 1

#: One: the process is of this run. Several: it is a stray. None: it is of no run.
Runs = tuple[wire.RunUid, ...]

_MARKERS = (worker_api.MARKER.encode() + b"=", worker_api.OUTER_MARKER.encode() + b"=")


class LeftAlone:
    """Runs that are gone, and whose leftovers run on as their profile allows, as part of no run."""

    def __init__(self) -> None:
        self._leaders: dict[wire.RunUid, int] = {}
        self._by_mark: dict[int, wire.RunUid] = {}
        self._by_leader: dict[int, wire.RunUid] = {}

    def __bool__(self) -> bool:
        return bool(self._leaders)

    def add(self, run: TrackedRun) -> None:
        """Attribute a run's leftovers, and what they start, to no run from now on."""
        if run.pid is None:
            return
        if len(self._leaders) >= MOST_LEFT_ALONE:
            self._drop(next(iter(self._leaders)))
        self._leaders[run.uid] = run.pid
        self._by_leader[run.pid] = self._by_mark[mark_of(run.uid)] = run.uid

    def _drop(self, uid: wire.RunUid) -> None:
        leader = self._leaders.pop(uid)
        if self._by_leader.get(leader) == uid:
            del self._by_leader[leader]
        self._by_mark.pop(mark_of(uid), None)

    def has_mark(self, mark: int) -> bool:
        """Whether a mark is that of a run that was left alone."""
        return mark != 0 and mark in self._by_mark

    def has_member(self, process: Process) -> bool:
        """Whether a process is in the session or group of one; these may be others' by now."""
        return process.session in self._by_leader or process.group in self._by_leader

    def has_any(self, uids: Collection[wire.RunUid]) -> bool:
        """Whether any of these runs was left alone."""
        return not self._leaders.keys().isdisjoint(uids)


class Suspects:
    """The runs that a new orphan may be of, by the evidence for each."""

    def __init__(self, runs: Iterable[TrackedRun], outputs: OutputFiles) -> None:
        self._outputs = outputs
        self._runs = [
            run for run in runs if run.pid and run.inherited is None and run.phase < Phase.GONE
        ]
        self.by_leader = {run.pid: run.uid for run in self._runs}
        self.by_mark = by_mark(run.uid for run in self._runs)
        self.uids = {run.uid for run in self._runs}

    @cached_property
    def by_output(self) -> dict[File, TrackedRun]:
        """The runs by their output files: seldom needed, and each must be looked up."""
        identities = [(self._outputs.identity(run.output_path), run) for run in self._runs]
        return {file: run for file, run in identities if file is not None}

    def alive_at(self, process: Process) -> tuple[wire.RunUid, ...]:
        """Return the runs that may have started a process, the latest last."""
        return tuple(
            run.uid
            for run in self._runs
            if process.opaque or (run.start_ticks or 0) <= process.start_ticks
        )


def markers(environment: bytes) -> set[wire.RunUid]:
    """Return the uids of the runs, inner and outer, that an environment names."""
    uids: set[wire.RunUid] = set()
    for variable in environment.split(b"\0"):
        if variable.startswith(_MARKERS):
            names = variable.partition(b"=")[2].decode(errors="replace")
            uids.update(map(wire.RunUid, names.split(":")))
    return uids


class NotReadYet(Exception):
    """A process is in the middle of an exec: read it again later."""


class Attribution:
    """Finds the run of a new orphan."""

    def __init__(
        self, kernel: Kernel, outputs: OutputFiles, seen: Mapping[Identity, wire.RunUid]
    ) -> None:
        """`seen` are the runs that processes were seen below, before they became orphans."""
        self._kernel = kernel
        self._outputs = outputs
        self._seen = seen
        self.left_alone = LeftAlone()

    def candidates(
        self, process: Process, mark: int | None, suspects: Suspects, *, patient: bool
    ) -> Runs:
        """Return the runs that a process may be of: one, several (a stray), or none.

        Raises `NotReadYet` if its environment cannot be read yet and `patient` allows to wait.
        """
        found = self._by_mark(mark or 0, suspects)
        if found is None:
            found = self._by_kin(process, suspects)
        if found is None:
            found = self._by_traces(process, suspects, patient=patient)
        # Last, as another process may have their session or group by now.
        if found is None and self.left_alone.has_member(process):
            found = ()
        if found is not None:
            return found
        # The init of a container is given orphans that no run has started.
        return () if self._kernel.pid == INIT else suspects.alive_at(process)

    def _by_mark(self, mark: int, suspects: Suspects) -> Runs | None:
        uid = suspects.by_mark.get(mark)
        if uid is None:
            return () if self.left_alone.has_mark(mark) else None
        return (uid,)

    def _by_kin(self, process: Process, suspects: Suspects) -> Runs | None:
        uid = (
            self._seen.get(process.identity)
            # The leader is not reaped before its run is gone: no other session has its number.
            or suspects.by_leader.get(process.session)
            or suspects.by_leader.get(process.group)
        )
        return None if uid is None else (uid,)

    def _by_traces(self, process: Process, suspects: Suspects, *, patient: bool) -> Runs | None:
        environment = self._kernel.environment(process)
        if environment is None and patient:
            raise NotReadYet
        named = markers(environment or b"")
        uid = next(iter(suspects.uids & named), None)
        if uid is None and self.left_alone.has_any(named):
            return ()
        if uid is None:
            files = {file: run.output_path for file, run in suspects.by_output.items()}
            if file := self._kernel.written(process.pid, files):
                uid = suspects.by_output[file].uid
        return None if uid is None else (uid,)
