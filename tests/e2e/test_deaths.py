"""Daemon, executor or both are killed under running tasks; the next start makes it right."""

import shutil
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.helpers import (
    expect_dead,
    expect_file,
    expect_settled,
    external_executor,
    is_alive,
    listed,
    python,
    shell,
    stored,
    submit_all,
)
from tests.e2e.world import Daemon, World
from tests.eventually import eventually

WAIT = "while [ ! -e go ]; do sleep 0.02; done;"

#: The first run hangs together with a grandchild that escaped from its session; later runs record
#: whether a process of an earlier one is left, and wait until four are there at once.
TWIN = python("""
    import fcntl, os, pathlib, sys, time
    name = os.environ["DISPATCHER_TASK_ID"]
    twin = open(f"twin.{name}", "w")
    try:
        fcntl.flock(twin, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("a twin lives")
    if os.environ["DISPATCHER_FENCE"] == "1":
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in range(3):
                os.dup2(null, descriptor)
            with open("escaped", "a") as escaped:
                escaped.write(f"{os.getpid()}\\n")
        time.sleep(1000)
    pathlib.Path(f"rerun.{name}").touch()
    while len(list(pathlib.Path().glob("rerun.*"))) < 4:
        time.sleep(0.01)
    print("alone, and four at once")
""")


def test_r31_r62_tasks_that_end_while_the_daemon_is_dead_are_settled_at_once_after_its_restart(
    world: World,
) -> None:
    ends = {
        "exit 7": ("failed", "failed", 7, None),
        "exit 0": ("succeeded", "succeeded", 0, None),
        "exit 75": ("scheduled", "deferred", 75, None),
        "kill -KILL $$": ("failed", "failed", None, 9),
    }
    world.configure(retry={"cooldown": "1h"})
    with world.daemon() as daemon:
        ids = submit_all(
            world, *({"command": shell(WAIT + end), "max_attempts": 1} for end in ends)
        )
        workers = _workers(daemon, ids)
        daemon.kill()
    (world.directory / "go").touch()
    for worker in workers:
        expect_dead(worker)

    with world.daemon() as daemon:
        started = _moment(daemon.expect("daemon.started")["timestamp"])
        expect_settled(daemon, ids)

    for task_id, expected in zip(ids, ends.values(), strict=True):
        task = world.show(task_id)
        (run,) = task["runs"]
        assert expected == (task["state"], run["outcome"], run["exit_code"], run["signal"])
        assert _moment(run["ended_at"]) < started


def test_r62_a_worker_that_outlives_the_daemon_goes_on_and_is_settled_by_the_next(
    world: World,
) -> None:
    with world.daemon() as daemon:
        task_id = world.submit(*shell(WAIT + "echo survived"))
        (worker,) = _workers(daemon, [task_id])
        daemon.kill()

    with world.daemon() as daemon:
        daemon.expect("run.reconciled", task_id=task_id, pid=worker.pid)
        assert is_alive(worker)
        (world.directory / "go").touch()
        expect_settled(daemon, [task_id])

    (run,) = world.show(task_id)["runs"]
    assert ("succeeded", worker.pid, "survived\n") == tuple(
        run[key] for key in ("outcome", "pid", "output_tail")
    )


@pytest.mark.parametrize("killed", ["the executor", "the daemon and the executor"])
def test_r48_after_a_kill_survivors_are_ended_before_the_rerun_and_nothing_is_charged(
    world: World, killed: str
) -> None:
    with world.daemon() as daemon:
        ids = submit_all(world, *[{"command": TWIN, "max_attempts": 1}] * 4)
        survivors = _workers(daemon, ids)
        survivors += map(psutil.Process, map(int, expect_file(world, "escaped", lines=4)))
        executor = daemon.executor()
        if killed == "the executor":
            executor.kill()
            _expect_all_succeed(world, daemon, ids)
            daemon.expect("executor.exited", executor_pid=executor.pid)
        else:
            daemon.kill()
            executor.kill()
    if daemon.killed:
        with world.daemon() as daemon:
            _expect_all_succeed(world, daemon, ids)

    assert [] == [process for process in survivors if is_alive(process)]
    for task_id in ids:
        task = world.show(task_id)
        assert (0, 1) == (task["attempts_used"], task["orphans"])
        assert ["orphaned", "succeeded"] == [run["outcome"] for run in task["runs"]]
        assert "alone, and four at once\n" == task["runs"][1]["output_tail"]


def _expect_all_succeed(world: World, daemon: Daemon, ids: list[int]) -> None:
    for task_id in ids:
        daemon.expect("run.settled", task_id=task_id, outcome="succeeded")
    assert 0 == world.cli("status", "--json").json["node"]["busy"]


def test_r22_an_unread_start_of_a_dead_daemon_never_runs(world: World) -> None:
    with world.daemon() as daemon:
        executor = daemon.executor()
        executor.suspend()
        task_id = world.submit(*shell("echo $DISPATCHER_FENCE >> ran"), max_attempts=1)
        daemon.expect("task.claimed", task_id=task_id)
        assert (
            1 == world.cli("status", "--json").json["node"]["busy"]
        )  # in a later turn: it was sent
        daemon.kill()

    with world.daemon() as daemon:
        eventually(lambda: _assert_connected(daemon))
        executor.resume()
        daemon.expect("run.settled", task_id=task_id, fence=1, outcome="orphaned")
        daemon.expect("run.settled", task_id=task_id, fence=2, outcome="succeeded")

    task = world.show(task_id)
    assert ["orphaned", "succeeded"] == [run["outcome"] for run in task["runs"]]
    assert (0, ["2"]) == (task["attempts_used"], expect_file(world, "ran"))


def test_a_run_that_a_restored_database_does_not_know_is_ended_and_never_adopted(
    world: World,
) -> None:
    world.configure(executor={"mode": "external"})
    with external_executor(world):
        with world.daemon(alone=False):
            world.until(world.submit("true"), "succeeded")
        shutil.copytree(world.state_dir, world.directory / "backup")
        with world.daemon(alone=False) as daemon:
            lost = world.submit(*shell("sleep 1000"))
            (worker,) = _workers(daemon, [lost])
        uid = world.show(lost)["runs"][0]["uid"]
        shutil.copy(world.directory / "backup" / "tasks.db", world.state_dir / "tasks.db")
        with world.daemon(alone=False) as daemon:
            daemon.expect("run.unknown", pid=worker.pid)
            expect_dead(worker)
            anew = world.submit("echo", "anew")
            expect_settled(daemon, [anew])

    assert {1, lost} == set(listed(world))
    (run,) = world.show(anew)["runs"]
    assert (lost, "succeeded", "anew\n") == (anew, run["outcome"], run["output_tail"])
    assert uid != run["uid"]


def _workers(daemon: Daemon, task_ids: list[int]) -> list[psutil.Process]:
    return [psutil.Process(daemon.expect("run.started", task_id=i)["pid"]) for i in task_ids]


def _assert_connected(daemon: Daemon) -> None:
    """See that a daemon has its two sockets: the one for us, and one to the executor."""
    links = [str(link.readlink()) for link in Path(f"/proc/{daemon.pid}/fd").iterdir()]
    assert 2 == sum(link.startswith("socket:") for link in links), links


def _moment(text: Any) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_r49_a_storm_of_kills_leaves_the_database_whole(world: World) -> None:
    task_ids = submit_all(world, *[{"command": ["true"], "queue": f"q{n % 3}"} for n in range(150)])
    for _ in range(6):
        with world.daemon() as daemon:
            eventually(partial(_expect_more_than, 5, daemon))
            daemon.kill()
        assert [("ok",)] == stored(world, "PRAGMA integrity_check")
    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    assert [("ok",)] == stored(world, "PRAGMA integrity_check")
    assert {"succeeded"} == {task["state"] for task in listed(world).values()}
    assert set(task_ids) == set(listed(world))


def _expect_more_than(number: int, daemon: Daemon) -> None:
    assert len(daemon.events("run.settled")) > number
