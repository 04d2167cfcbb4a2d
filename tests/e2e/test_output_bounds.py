"""Output within its bounds and no longer than it is wanted, through the installed command."""

import os
from pathlib import Path

from tests.e2e.helpers import shell, stored
from tests.e2e.world import Daemon, World
from tests.eventually import eventually


def writes(size: int) -> list[str]:
    """Return a command that writes so many bytes and then a last word."""
    return shell(f"head -c {size} /dev/zero | tr '\\0' x; echo; echo the end")


def output_of(world: World, task_id: int) -> Path:
    return Path(world.show(task_id)["runs"][0]["output_path"])


def test_r74_beyond_the_total_budget_the_oldest_output_goes_and_every_command_shows_it(
    world: World,
) -> None:
    world.configure(output={"run_budget": "1MiB", "total_budget": "2MiB"})
    old = world.submit(*writes(900_000))
    with world.daemon() as daemon:
        world.until(old, "succeeded")
        alive = world.submit(
            *shell("head -c 900000 /dev/zero; while [ ! -e go ]; do sleep 0.02; done")
        )
        young = world.submit(*writes(900_000))
        world.until(young, "succeeded")
        removed = daemon.expect("output.removed")
        assert ("total_budget", 1) == (removed["reason"], removed["files"])

        assert not output_of(world, old).exists()
        assert 900_000 == os.stat(output_of(world, alive)).st_size
        logs = world.cli("logs", old)
        assert logs.stdout.endswith("x\nthe end\n")
        assert "[output] total_budget or free_floor removed it" in logs.stderr
        followed = world.cli("logs", "-f", old)
        head = "dispatcher: run 1, attempt 1:\n"
        assert (logs.stdout, head + logs.stderr) == (followed.stdout, followed.stderr)
        assert "(the rest was removed):" in world.cli("show", old).stdout

        world.configure(output={"run_budget": "64KiB", "total_budget": "256KiB"})
        world.cli("reload")
        warned = daemon.expect("output.overflowed")
        assert "total_budget" == warned["reason"]
        assert "no run that is over has output left to remove" in world.cli("status").stdout
        assert 900_000 == os.stat(output_of(world, alive)).st_size
        (world.directory / "go").touch()
        assert "succeeded" == world.until(alive, "succeeded")["state"]


def _both_are_removed(daemon: Daemon) -> None:
    removed = daemon.events("output.removed")
    assert 2 == sum(event["files"] for event in removed), removed
    assert {"retention", "no run"} >= {event["reason"] for event in removed}


def test_r56_finished_tasks_go_by_themselves_and_so_does_output_without_a_run(
    world: World,
) -> None:
    world.configure(output={"retention": "1s"})
    stray = world.state_dir / "output" / f"{'f' * 32}.log"
    stray.parent.mkdir(parents=True)
    stray.write_text("left by a crash")
    os.utime(stray, (1, 1))
    with world.daemon() as daemon:
        task_id = world.submit("echo", "hello")
        kept = world.submit(*shell("echo I live; while [ ! -e go ]; do sleep 0.02; done"))
        daemon.expect("task.pruned", tasks=1)
        # As old as this the pruned task's file may also be found to belong to no run any more.
        eventually(lambda: _both_are_removed(daemon))

        world.cli("show", task_id, exits=1)
        (left,) = stray.parent.iterdir()
        assert left == output_of(world, kept)
        assert "running" == world.show(kept)["state"]
        assert [(1,)] == stored(world, "SELECT count(*) FROM runs")
        (world.directory / "go").touch()
