"""The store is locked, its disk is full, or a commit gets no answer: tasks lose nothing by it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dispatcher.errors import CommitUnknown
from dispatcher.model import Outcome, TaskState
from tests.crash import workers
from tests.crash.judges import explained, judge, judge_stage
from tests.crash.outside import Outside
from tests.crash.plays import CASTS, perform
from tests.crash.stage import Stage

TASKS = 12

#: One of so many commits gets no answer.
STRIDE = 1 if "FUZZ" in os.environ else 3


class Doubtful:
    """A store one of whose commits gets no answer, whether it was made or not."""

    def __init__(self, store: Any, commit: int, *, made: bool) -> None:
        self._store = store
        self._left = commit
        self._made = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        self._left -= 1
        doubt = CommitUnknown("a test wants it so")
        with self._store.transaction() as now:
            yield now
            if self._left == 0 and not self._made:
                raise doubt
        if self._left == 0:
            raise doubt


@pytest.mark.parametrize("made", [False, True])
def test_a_commit_without_an_answer_is_found_out(template: Path, *, made: bool) -> None:
    for commit in count(1, STRIDE):
        with Stage(template) as stage:
            stage.wrap_store = lambda store, commit=commit: Doubtful(store, commit, made=made)
            played = perform("work", stage, CASTS["executor"])

            judge(played)
            events = {line["event"] for line in stage.trace}
            if not events & {"store.reconciling", "work.postponed"}:
                break
    assert commit > 5, "there are more commits than that"


def test_a_store_locked_by_another_process_is_waited_for(outside: Outside) -> None:
    stage = outside.stage
    tasks = [stage.submit(workers.EXITS_0) for _ in range(TASKS)]

    with outside.daemon("--drain") as daemon:
        outside.wait_for(lambda: stage.diary(tasks[0]).started())
        with stage.store.transaction():
            outside.wait_for(lambda: outside.events("store.unavailable"))
        outside.wait_for(lambda: daemon.poll() is not None)

    assert outside.events("store.recovered")
    judge_uncharged(stage, tasks)


def test_a_full_disk_is_waited_for(template: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk, Stage(template, state_dir=disk / "state") as stage:
        outside = Outside(stage)
        gate = stage.directory / "gate"
        tasks = [stage.submit(workers.EXITS_0) for _ in range(4)]
        tasks += [stage.submit(workers.WAITS, str(gate)) for _ in range(TASKS)]

        with outside.daemon("--drain") as daemon:
            outside.wait_for(lambda: stage.diary(tasks[4]).started())
            fill(disk)
            gate.touch()
            outside.wait_for(
                lambda: outside.events("store.unavailable") or outside.events("node.paused")
            )
            (disk / "filling").unlink()
            outside.wait_for(lambda: daemon.poll() is not None)

        judge_uncharged(stage, tasks)


def judge_uncharged(stage: Stage, tasks: list[int]) -> None:
    judge_stage(stage)
    with explained(stage):
        for task in map(stage.task, tasks):
            assert (TaskState.SUCCEEDED, 0, 0) == (task.state, task.attempts_used, task.orphans)
            outcomes = {run.outcome for run in stage.runs(task.id)}
            assert outcomes <= {Outcome.SUCCEEDED, Outcome.RELEASED}


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """Mount a disk of a few megabytes, which root may."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "dispatcher-crash", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root, where it may mount, can have a small disk to fill")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte."""
    with (disk / "filling").open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
