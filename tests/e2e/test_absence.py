"""A daemon that is away: with a limit its executor ends the runs, without one they go on."""

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psutil
import pytest
from pysqlite3 import dbapi2 as sqlite3

from dispatcher.times import from_iso
from tests.e2e.helpers import expect_dead, shell, stored
from tests.e2e.world import Daemon, World
from tests.eventually import PATIENCE, eventually, let_pass

#: The shortest limit that may be configured; runs are ended 2 s after it.
LIMIT = 1.0
SLACK = 2.0


def start(world: World, daemon: Daemon) -> tuple[int, psutil.Process]:
    """Start a task that the second run of ends at once; return it and its first worker."""
    command = shell('[ "$DISPATCHER_FENCE" = 2 ] || exec sleep 60')
    task = world.submit(*command)
    return task, psutil.Process(daemon.expect("run.started", task_id=task)["pid"])


def judge_orphaned(world: World, task: int) -> None:
    shown = world.until(task, "succeeded")
    assert ["orphaned", "succeeded"] == [run["outcome"] for run in shown["runs"]]
    assert 0 == shown["attempts_used"]
    assert "absence" in shown["runs"][0]["error"]
    submitted, ended = map(from_iso, (shown["created_at"], shown["runs"][0]["ended_at"]))
    assert ended - submitted >= 1000 * (LIMIT + SLACK)


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    daemon.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.signal(signal.SIGCONT)


@contextmanager
def store_held(world: World) -> Iterator[None]:
    with closing(sqlite3.connect(world.state_dir / "tasks.db", timeout=PATIENCE)) as store:
        store.execute("BEGIN IMMEDIATE")
        yield
        store.execute("ROLLBACK")


@pytest.mark.parametrize("how", ["stopped", "stuck in its store"])
def test_r85_the_runs_of_a_daemon_that_is_away_are_ended_and_run_again(
    world: World, how: str
) -> None:
    world.configure(executor={"absence_limit": "1s"})
    with world.daemon() as daemon:
        task, worker = start(world, daemon)

        with stopped(daemon) if how == "stopped" else store_held(world):
            expect_dead(worker)

        judge_orphaned(world, task)


def test_the_runs_of_a_daemon_that_was_killed_for_good_are_ended(world: World) -> None:
    world.configure(executor={"absence_limit": "1s"})
    with world.daemon() as daemon:
        task, worker = start(world, daemon)
        daemon.kill()
        expect_dead(worker)
        assert [("running",)] == stored(world, "SELECT state FROM tasks")  # nobody reports more yet

    with world.daemon():
        judge_orphaned(world, task)


def test_without_a_limit_they_go_on_and_are_renewed(world: World) -> None:
    with world.daemon() as daemon:
        task = world.submit("sleep", "60", lease_ttl="1s")
        worker = psutil.Process(daemon.expect("run.started")["pid"])

        with stopped(daemon):
            let_pass(LIMIT + SLACK + 0.3)
        eventually(lambda: _require(_lease_left(world) > 0))

        assert worker.is_running()
        assert 1 == len(world.show(task)["runs"])
        world.cli("cancel", task)


def test_with_a_limit_and_a_healthy_daemon_nobody_is_ended(world: World) -> None:
    world.configure(executor={"absence_limit": "1s"})
    with world.daemon() as daemon:
        task, worker = start(world, daemon)

        let_pass(LIMIT + SLACK + 0.3)  # what the start gave it, without a word since

        assert worker.is_running()
        assert [(None,)] == stored(world, "SELECT ending FROM runs")
        assert [] == daemon.events("run.ending")
        world.cli("cancel", task)


def _lease_left(world: World) -> float:
    ((expiry,),) = stored(world, "SELECT lease_expires_at FROM runs WHERE outcome IS NULL")
    return float(expiry) / 1000 - time.time()


def _require(truth: object) -> None:
    assert truth
