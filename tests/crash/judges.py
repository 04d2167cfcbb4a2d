"""Checks that must hold after every death."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from dispatcher.executor.journal import Journal
from dispatcher.executor.records import Header
from dispatcher.model import Outcome, Run, Task, TaskState
from dispatcher.policy import COUNTED
from tests.crash.parts import Part
from tests.crash.plays import Played
from tests.crash.stage import Stage
from tests.crash.workers import Diary


def judge(played: Played) -> None:
    """Check a play's end: every invariant, and that each task ended as it had to."""
    stage = played.stage
    judge_stage(stage)
    undisturbed = played.cast.mortal == "daemon" and not played.cast.together
    with explained(stage):
        for task, part in zip(stage.tasks(), played.parts, strict=True):
            runs = stage.runs(task.id)
            judge_part(part, task, runs)
            if undisturbed:
                judge_undisturbed(stage.diary(task.id), runs)


def judge_stage(stage: Stage) -> None:
    """Check every invariant that holds whatever was played."""
    with explained(stage):
        stage.family.expect_none()
        tasks = stage.tasks()
        runs = {task.id: stage.runs(task.id) for task in tasks}
        uids = [run.uid for found in runs.values() for run in found]
        assert len(uids) == len(set(uids)), "a uid was given twice"
        assert [] == known_to_a_successor(stage), "the journal still lists forgotten runs"
        for task in tasks:
            judge_task(task, runs[task.id])
            judge_diary(stage.diary(task.id), runs[task.id])


@contextmanager
def explained(stage: Stage) -> Iterator[None]:
    """Add the whole story to a failure."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error}\n{stage.story()}") from None


def judge_task(task: Task, runs: list[Run]) -> None:
    outcomes = [run.outcome for run in runs]
    assert task.reason, f"no reason why {task}"
    assert None not in outcomes, f"an open run of {task}"
    assert list(range(1, len(runs) + 1)) == [run.fence for run in runs], "fences have gaps"
    assert len(runs) == task.fence
    assert (task.state is TaskState.SUCCEEDED) == (outcomes.count(Outcome.SUCCEEDED) == 1)
    assert outcomes.count(Outcome.SUCCEEDED) <= 1, f"succeeded twice: {task}"
    assert task.attempts_used == sum(outcome in COUNTED for outcome in outcomes), "attempts"
    assert task.deferrals == outcomes.count(Outcome.DEFERRED), "deferrals"
    assert task.orphans == outcomes.count(Outcome.ORPHANED), "orphans"
    assert [run.attempt for run in runs] == sorted(run.attempt for run in runs)


def judge_part(part: Part, task: Task, runs: list[Run]) -> None:
    """Judge that a task ended in the expected state, by the expected outcomes."""
    assert part.state is task.state, f"{part.name} ended {task.state}"
    outcomes = " ".join(run.outcome or "-" for run in runs if run.outcome is not Outcome.ORPHANED)
    assert re.fullmatch(part.outcomes, outcomes), f"outcomes of {part.name}: {outcomes}"
    codes = {run.exit_code for run in runs if run.outcome is Outcome.FAILED}
    assert codes <= {7}, f"exit codes of {part.name}: {codes}"


def judge_diary(diary: Diary, runs: list[Run]) -> None:
    """Judge the diaries: no start twice, none during another run, none without its run."""
    lines = diary.lines()
    assert [] == [line for line in lines if line[0] == "twin"], f"a twin: {lines}"
    started = diary.started()
    assert len(started) == len(set(started)), f"a run was started twice: {lines}"
    assert all(first[1] <= second[1] for first, second in pairwise(lines)), f"a twin: {lines}"
    by_fence = {run.fence: run for run in runs}
    assert set(started) <= by_fence.keys(), f"an unknown run: {lines}"
    for fence in started:
        assert by_fence[fence].outcome is not Outcome.SPAWN_FAILED


def judge_undisturbed(diary: Diary, runs: list[Run]) -> None:
    """Judge that the daemon's death alone costs no run that began to work."""
    lost = {run.fence for run in runs if run.outcome is Outcome.ORPHANED}
    assert not lost & set(diary.started()), f"lost with the daemon: {diary.lines()}"


def known_to_a_successor(stage: Stage) -> list[str]:
    """Return the runs that the journal still lists."""
    boot_id, namespace = stage.boot_id, stage.pid_namespace
    journal = Journal(str(stage.place.journal), Header(boot_id=boot_id, pid_namespace=namespace))
    return [run.uid for run in journal.predecessors_runs()]
