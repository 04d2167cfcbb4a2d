"""The promises of the demo, and whether they were kept."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
from msgspec import Struct

from dispatcher import times, wire, worker_api
from dispatcher.demo.cast import Part
from dispatcher.demo.files import Job
from dispatcher.demo.play import Play
from dispatcher.model import Outcome, Run, TaskState

#: Seconds in which an idle executor exits.
PATIENCE = 10.0


class ProofCheck(Struct, frozen=True):
    what: str
    expected: object
    actual: object

    @property
    def kept(self) -> bool:
        return self.expected == self.actual

    def __str__(self) -> str:
        if self.kept:
            return f"[green]ok    [/] {self.what}: {self.actual}, as promised"
        return f"[red]FAILED[/] {self.what}: promised {self.expected}, got {self.actual}"


def checks(play: Play, job: Job, parts: Sequence[Part], trail: Path) -> Iterator[ProofCheck]:
    """Yield every promise of the demo, compared with the store and the files."""
    files = [play.client.runs(task_id) for task_id in play.files]
    roles = [play.client.runs(task_id) for task_id in play.roles]
    every = len(job)

    states = [play.task(task_id).state for task_id in play.files]
    yield ProofCheck("files: succeeded", every, states.count(TaskState.SUCCEEDED))
    once = [[run.outcome for run in runs].count(Outcome.SUCCEEDED) for runs in files]
    yield ProofCheck("files: with exactly one successful run", every, once.count(1))
    begun = [run for runs in files for run in runs if run.started_at is not None]
    lost = [run for run in begun if run.outcome != Outcome.SUCCEEDED]
    yield ProofCheck("files: runs that were lost with the daemon", 0, len(lost))
    yield ProofCheck("files: results that pass gzip -t and equal the original", every, job.intact())

    for part, runs in zip(parts, roles, strict=True):
        yield as_promised(part, runs)
        if part.name == "stubborn":
            what = "stubborn: its processes, dead before its second run began"
            yield ProofCheck(what, 2, _dead_before_the_second(runs, trail))

    uids = {run.uid for runs in (*files, *roles) for run in runs}
    yield ProofCheck("processes left", 0, _left(play.executor, uids))


def as_promised(part: Part, runs: Sequence[Run]) -> ProofCheck:
    """Compare the started runs of a worker with its part.

    A claim that the killed daemon had not started yet has no process.
    """
    unbegun = {
        run.fence for run in runs if (run.outcome, run.started_at) == (Outcome.ORPHANED, None)
    }
    fences = (fence for fence in count(1) if fence not in unbegun)
    return ProofCheck(
        f"{part.name}: {part.does}",
        ", ".join(
            f"{fence} {outcome}" for fence, outcome in zip(fences, part.expected, strict=False)
        ),
        ", ".join(f"{run.fence} {run.outcome}" for run in runs if run.fence not in unbegun),
    )


def _dead_before_the_second(runs: Sequence[Run], trail: Path) -> int:
    """Return how many processes of the first run wrote to the trail only before the second."""
    began = runs[1].started_at if len(runs) > 1 else None
    last: dict[str, float] = {}
    for line in trail.read_text("utf-8").splitlines():
        _role, pid, fence, at = line.split()
        if fence == "1":
            last[pid] = max(float(at), last.get(pid, 0.0))
    return sum(began is not None and at * 1000 <= began for at in last.values())


def _left(executor: psutil.Process | None, uids: set[wire.RunUid]) -> int:
    """Count the processes of runs that are left, and the executor unless it exits in time."""
    give_up_at = times.instant() + PATIENCE
    while (stays := _is_alive(executor)) and times.instant() < give_up_at:
        time.sleep(0.05)
    left = int(stays)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            left += process.environ().get(worker_api.MARKER) in uids
    return left


def _is_alive(process: psutil.Process | None) -> bool:
    try:
        return process is not None and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
