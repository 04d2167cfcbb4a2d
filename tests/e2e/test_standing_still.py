"""Daemon and executor stopped across deadlines: what waited is heard before these count."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest

from tests.e2e.beating import beating
from tests.e2e.helpers import expect_dead, shell
from tests.e2e.world import Daemon, World
from tests.eventually import eventually

#: Seconds of an absence limit; its runs are ended two seconds later.
LIMIT = 2.0
SLACK = 2.0

#: Seconds of a run time-out: long enough to get there on a slow host. The executor's own is later.
TIMEOUT = 5.0
BACKSTOP = 2.0


@contextmanager
def stopped(*processes: psutil.Process) -> Iterator[None]:
    """Keep processes from doing anything; they go on in this order."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def wait(seconds: float) -> None:
    """Let real time pass, which is what is tried here."""
    end = time.monotonic() + seconds
    eventually(lambda: require(time.monotonic() >= end))


def require(truth: object) -> None:
    assert truth


def both(daemon: Daemon, order: str) -> Sequence[psutil.Process]:
    pair = (psutil.Process(daemon.pid), daemon.executor())
    return pair if order == "daemon first" else pair[::-1]


class Crew:
    """Tasks whose workers exit with the codes that a file tells them, one each."""

    def __init__(self, world: World, daemon: Daemon, count: int, **options: str | int) -> None:
        self.world = world
        script = 'until [ -s "go$0" ]; do sleep 0.05; done; exit $(cat "go$0")'
        self.tasks = [
            world.submit(*shell(script), str(number), max_attempts=1, **options)
            for number in range(count)
        ]
        self.workers = [
            psutil.Process(daemon.expect("run.started", task_id=task)["pid"]) for task in self.tasks
        ]

    def exit(self, *codes: int) -> None:
        """Let the first workers exit with these codes, and wait until they have."""
        for number, code in enumerate(codes):
            draft = self.world.directory / f"draft{number}"
            draft.write_text(str(code))
            draft.rename(self.world.directory / f"go{number}")
        for worker, _ in zip(self.workers, codes, strict=False):
            expect_dead(worker)

    def judge(self, *codes: int) -> None:
        """Expect each of them to have had one run, which ended with its own code."""
        assert len(codes) == len(self.tasks)
        for task, code in zip(self.tasks, codes, strict=True):
            shown = self.world.until(task, "succeeded", "failed")
            (run,) = shown["runs"]
            outcome = "failed" if code else "succeeded"
            assert (outcome, code) == (run["outcome"], run["exit_code"]), run


def test_an_executor_that_stood_still_past_the_absence_limit_ends_nobody_who_was_confirmed(
    world: World,
) -> None:
    world.configure(executor={"absence_limit": "2s"}, node={"slots": 6})
    with world.daemon() as daemon:
        crew = Crew(world, daemon, 6)

        with stopped(daemon.executor()):
            crew.exit(0, 3)
            wait(LIMIT + SLACK + 2)
        wait(1)  # in which they would have been ended

        assert [] == daemon.events("run.ending")
        crew.exit(0, 3, 0, 3, 0, 3)
        crew.judge(0, 3, 0, 3, 0, 3)


@pytest.mark.parametrize("order", ["daemon first", "executor first"])
def test_both_stood_still_past_run_time_outs_and_who_was_done_has_its_code(
    world: World, order: str
) -> None:
    with world.daemon() as daemon:
        crew = Crew(world, daemon, 3, run_timeout=f"{TIMEOUT:g}s")

        with stopped(*both(daemon, order)):
            crew.exit(0, 3, 0)
            wait(TIMEOUT + BACKSTOP + 1)

        crew.judge(0, 3, 0)


@pytest.mark.parametrize("order", ["daemon first", "executor first"])
def test_both_stood_still_past_the_absence_limit_and_who_was_done_has_its_code(
    world: World, order: str
) -> None:
    world.configure(executor={"absence_limit": "2s"})
    with world.daemon() as daemon:
        crew = Crew(world, daemon, 2)

        with stopped(*both(daemon, order)):
            crew.exit(0, 3)
            wait(LIMIT + SLACK + 2)

        crew.judge(0, 3)


def test_the_daemon_decides_no_time_out_before_an_executor_that_stands_still_has_spoken(
    world: World,
) -> None:
    with world.daemon() as daemon:
        crew = Crew(world, daemon, 2, run_timeout=f"{TIMEOUT:g}s")

        with stopped(daemon.executor()):
            crew.exit(0)
            wait(TIMEOUT + 1)
            assert [None, None] == [world.show(task)["ending"] for task in crew.tasks]

        done, late = (world.until(task, "succeeded", "failed") for task in crew.tasks)
        assert ["succeeded"] == [run["outcome"] for run in done["runs"]]
        assert ["timed_out"] == [run["outcome"] for run in late["runs"]]


def cpu(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system


@contextmanager
def at_rest(process: psutil.Process) -> Iterator[None]:
    """Expect a process to sleep most of the time."""
    before, began = cpu(process), time.monotonic()
    yield
    assert cpu(process) - before < (time.monotonic() - began) / 4


def executor_of(report: dict[str, Any]) -> Any:
    return report["daemon"]["executor"]


def test_a_daemon_that_finds_its_executor_stopped_calls_it_silent_and_sleeps(world: World) -> None:
    with world.daemon() as daemon:
        crew = Crew(world, daemon, 1)
        executor = daemon.executor()
        with stopped(executor):
            daemon.kill()
            with world.daemon(alone=False) as successor:
                with at_rest(psutil.Process(successor.pid)):
                    successor.expect("executor.silent")
                    wait(3)
                assert "silent" == world.cli("status", "--json").json["executor"]
                assert "the executor is silent" in world.cli("why", crew.tasks[0]).stdout
                assert "has not greeted it" in world.cli("doctor", exits=1).stdout

                executor.send_signal(signal.SIGCONT)
                successor.expect("executor.connected", executor_pid=executor.pid)
                crew.exit(3)
                crew.judge(3)
    world.expect_nobody()


def test_no_beating_worker_is_lost_that_waited_at_the_door_of_a_stopped_executor(
    world: World,
) -> None:
    """More of them than the daemon lets in at once, and for longer than two leases."""
    count = 48
    world.configure(node={"slots": count})
    with world.daemon() as daemon:
        options = {"liveness": "worker", "lease_ttl": "5s", "max_attempts": 1}
        tasks = [world.submit(*beating(), **options) for _ in range(count)]
        for task in tasks:
            daemon.expect("run.started", task_id=task)
        executor = daemon.executor()
        with stopped(executor):
            daemon.kill()
            with world.daemon(alone=False) as successor:
                wait(12)
                executor.send_signal(signal.SIGCONT)
                successor.expect("executor.connected")
                wait(6)

                assert [] == successor.events("lease.expired")
                (world.directory / "stop").touch()
                for task in tasks:
                    assert "succeeded" == world.until(task, "succeeded", "failed")["state"]
    world.expect_nobody()
