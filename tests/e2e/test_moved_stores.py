"""A database that was moved to another state directory, with runs that were open."""

import shutil
from pathlib import Path

import psutil

from tests.e2e.helpers import is_alive
from tests.e2e.world import World
from tests.eventually import eventually


def leave_a_worker(world: World) -> tuple[int, psutil.Process]:
    """Run a task whose daemon and executor die, and whose worker goes on."""
    with world.daemon() as daemon:
        task = world.submit("sleep", "1000")
        daemon.expect("run.started")
        executor = daemon.executor()
        worker = psutil.Process(world.show(task)["runs"][0]["pid"])
        daemon.kill()
        executor.kill()
        executor.wait()
    return task, worker


def move(world: World, tmp_path: Path, *, whole: bool) -> None:
    """Go on in a fresh state directory with the database, or with all but what an executor knew."""
    state_dir = tmp_path / "moved"
    state_dir.mkdir(mode=0o700)
    kept = ("tasks.db", "tasks.db-wal", "tasks.db-shm", *(("node-id", "store-id") if whole else ()))
    for name in kept:
        if (file := world.state_dir / name).exists():
            shutil.copy(file, state_dir / name)
    world.configure(node={"state_dir": str(state_dir)}, leases={"reap_interval": "200ms"})


def see_it_settled(world: World, task: int, worker: psutil.Process, reason: str) -> None:
    with world.daemon() as daemon:
        event = daemon.expect("run.stranded", task_id=task)
        assert (f"{reason} ({worker.pid})" in event["reason"], worker.pid) == (True, event["pid"])
        other = world.until(world.submit("true"), "succeeded")
        assert "running" == world.show(task)["state"]
        status = world.cli("status", "--json").json
        assert "degraded" == status["health"]
        assert f"no executor ends task {task}" in status["degraded"][0]
        assert reason in world.cli("why", task).stdout

        worker.kill()
        daemon.expect("claim.taken_over", task_id=task)
        daemon.expect("run.started", task_id=task, fence=2)

        first, second = world.show(task)["runs"]
        assert ("orphaned", None) == (first["outcome"], second["outcome"])
        assert 1 == len(other["runs"])
        eventually(lambda: _healthy(world))
        world.cli("cancel", task)
        world.until(task, "cancelled")


def _healthy(world: World) -> None:
    assert "ok" == world.cli("status", "--json").json["health"]


def test_r79_a_run_of_the_node_before_stays_as_long_as_its_worker_lives_and_then_runs_again(
    world: World, tmp_path: Path
) -> None:
    task, worker = leave_a_worker(world)
    move(world, tmp_path, whole=False)

    see_it_settled(world, task, worker, "its processes live on this host: sleep")


def test_the_worker_of_a_node_whose_journal_is_lost_is_ended_before_its_task_runs_again(
    world: World, tmp_path: Path
) -> None:
    task, worker = leave_a_worker(world)
    move(world, tmp_path, whole=True)

    with world.daemon() as daemon:
        event = daemon.expect("run.stranded", task_id=task, pid=worker.pid)
        daemon.expect("run.started", task_id=task, fence=2)
        assert not is_alive(worker)
        assert event["reason"].endswith(f"sleep ({worker.pid})")
        assert "ok" == world.cli("status", "--json").json["health"]
        assert str(worker.pid) not in world.cli("why", task).stdout

        first, _ = world.show(task)["runs"]
        assert "orphaned" == first["outcome"]
        world.cli("cancel", task)
        world.until(task, "cancelled")


def test_a_cancel_of_a_stranded_run_and_doctor_name_the_processes_to_end(
    world: World, tmp_path: Path
) -> None:
    task, worker = leave_a_worker(world)
    move(world, tmp_path, whole=False)
    living = f"its processes live on this host: sleep ({worker.pid}); end them, or wait until they"

    with world.daemon() as daemon:
        daemon.expect("run.stranded", task_id=task, pid=worker.pid)
        daemon.expect("executor.connected")
        doctor = world.cli("doctor").stdout
        event = world.cli("hold", task).stdout

        assert f"warning  stranded run     no executor ends task {task}: {living} exit\n" in doctor
        ends = f"{task} is stranded, and no executor ends it: {living} exit; then it is held\n"
        assert ends == event
        worker.kill()
        world.until(task, "held")


def test_a_run_of_which_nothing_lives_runs_again_at_once(world: World, tmp_path: Path) -> None:
    task, worker = leave_a_worker(world)
    worker.kill()
    worker.wait()
    move(world, tmp_path, whole=False)

    with world.daemon() as daemon:
        daemon.expect("claim.taken_over", task_id=task)
        daemon.expect("run.started", task_id=task, fence=2)
        assert "ok" == world.cli("status", "--json").json["health"]
        world.cli("cancel", task)
        world.until(task, "cancelled")
