"""Daemon or executor stands still for a while, and goes on: nothing is lost or doubled."""

import signal

import pytest

from dispatcher.model import Outcome, TaskState
from tests.crash import workers
from tests.crash.judges import judge_stage
from tests.crash.outside import Outside
from tests.crash.stage import Stage

#: More than there are slots.
TASKS = 8


def submit(stage: Stage) -> list[int]:
    """Submit tasks that wait for the gate, and exit 7 then."""
    gate = str(stage.directory / "gate")
    return [stage.submit(f"{workers.WAITS}; code=7", gate) for _ in range(TASKS)]


def open_gate(stage: Stage) -> None:
    (stage.directory / "gate").touch()


def ended(stage: Stage, tasks: list[int]) -> int:
    """Return how many workers have come to their end."""
    return sum("end" in [word for word, _ in stage.diary(task).lines()] for task in tasks)


def started(stage: Stage, tasks: list[int]) -> int:
    return sum(bool(stage.diary(task).started()) for task in tasks)


def judge(outside: Outside, tasks: list[int]) -> None:
    judge_stage(outside.stage)
    for task in tasks:
        assert TaskState.FAILED is outside.stage.task(task).state
        assert [(Outcome.FAILED, 7)] == [
            (run.outcome, run.exit_code) for run in outside.stage.runs(task)
        ]


@pytest.mark.parametrize("who", ["daemon", "executor"])
def test_r86_what_ends_while_daemon_or_executor_stands_still_is_settled(
    outside: Outside, who: str
) -> None:
    stage, tasks = outside.stage, submit(outside.stage)

    with outside.daemon("--drain") as daemon:
        outside.wait_for(lambda: started(stage, tasks) == 4)
        send = daemon.send_signal if who == "daemon" else outside.signal_executor
        send(signal.SIGSTOP)
        open_gate(stage)
        outside.wait_for(lambda: ended(stage, tasks) == 4)
        send(signal.SIGCONT)
        outside.wait_for(lambda: daemon.poll() is not None)

    judge(outside, tasks)


def test_a_daemon_replaced_while_the_executor_stands_still_waits_for_it(outside: Outside) -> None:
    stage, tasks = outside.stage, submit(outside.stage)
    with outside.daemon() as daemon:
        outside.wait_for(lambda: started(stage, tasks) == 4)
        outside.signal_executor(signal.SIGSTOP)
        daemon.kill()

    with outside.daemon("--drain") as successor:
        outside.wait_for(lambda: len(outside.events("daemon.started")) == 2)
        open_gate(stage)
        outside.wait_for(lambda: ended(stage, tasks) == 4)
        outside.signal_executor(signal.SIGCONT)
        outside.wait_for(lambda: successor.poll() is not None)

    judge(outside, tasks)
    assert 1 == len(outside.events("executor.started"))
