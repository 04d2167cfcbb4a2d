"""SIGKILL again and again, at random moments of a seed."""

import os
import random
import signal

import pytest

from dispatcher.model import Outcome, TaskState
from dispatcher.new_task import NewTask
from tests.crash import workers
from tests.crash.judges import explained, judge_stage
from tests.crash.outside import Outside
from tests.crash.stage import Stage

TASKS = 200
KILLS = 20

#: Bytes that a daemon may log before it is killed: at most some twenty lines.
LONGEST_LIFE = 5_000

SEEDS = range(20 if "FUZZ" in os.environ else 1)


def submit_many(stage: Stage) -> None:
    with stage.store.transaction() as now:
        for task_id in range(1, TASKS + 1):
            command = stage.diary(task_id).command(workers.EXITS_0)
            stage.store.submit(
                [NewTask(command=command, max_attempts=1, lease_ttl_ms=60_000)], now=now
            )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_daemon_killed_twenty_times_runs_each_of_200_tasks_to_success_once(
    seed: int, outside: Outside
) -> None:
    stage, moments = outside.stage, random.Random(seed)
    submit_many(stage)

    for _ in range(KILLS):
        life = outside.log_size() + moments.randrange(LONGEST_LIFE)
        with outside.daemon() as daemon:
            outside.wait_for(lambda life=life: outside.log_size() > life)
            daemon.kill()
    killed_before_the_end = TaskState.READY in stage.states()
    outside.drain()

    judge_stage(stage)
    with explained(stage):
        assert killed_before_the_end
        assert [TaskState.SUCCEEDED] * TASKS == stage.states()
        assert all(
            stage.diary(task.id).lines().count(("end", task.fence)) == 1 for task in stage.tasks()
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_both_killed_at_once_again_and_again_lose_and_double_nothing(
    seed: int, outside: Outside
) -> None:
    stage, moments = outside.stage, random.Random(seed)
    submit_many(stage)

    for _ in range(KILLS // 4):
        life = outside.log_size() + moments.randrange(LONGEST_LIFE)
        with outside.daemon() as daemon:
            outside.wait_for(lambda life=life: outside.log_size() > life)
            outside.signal_executor(signal.SIGKILL)
            daemon.kill()
    outside.drain()

    judge_stage(stage)
    with explained(stage):
        assert [TaskState.SUCCEEDED] * TASKS == stage.states()
        lost = [
            run
            for task in stage.tasks()
            for run in stage.runs(task.id)
            if run.outcome is Outcome.ORPHANED
        ]
        assert lost, "nothing ran when they died"
