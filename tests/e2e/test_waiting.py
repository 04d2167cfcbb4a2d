"""`wait`, `edit` and the ways to submit, through the installed command and a daemon."""

import subprocess

from tests.e2e.helpers import shell
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually


def test_a_wait_ends_when_the_daemon_is_done_with_all(world: World) -> None:
    good = world.submit("true", label="batch=7")
    bad = world.submit(*shell("exit 3"), label="batch=7", max_attempts=1)
    other = world.submit("sleep", "3600")
    with world.daemon():
        assert f"{good} succeeded\n" == world.cli("wait", good).stdout
        waited = world.cli("wait", "--label", "batch=7", exits=1)
        assert f"{good} succeeded\n{bad} failed\n" == waited.stdout
        assert f"task {bad} failed: " in waited.stderr
        assert f"{good} succeeded\n" == world.cli("wait", "--any", other, good).stdout
        late = world.cli("wait", other, "--timeout", "100ms", exits=75).stderr
        assert f"task {other} is not done after 100ms" in late
        world.cli("cancel", other)
        assert f"{other} cancelled\n" == world.cli("wait", other, exits=1).stdout


def test_a_wait_in_another_process_sees_a_task_end(world: World) -> None:
    task = world.submit("sleep", "3600")
    with (world.directory / "stderr").open("wb") as stderr:
        waiting = world.process_of(
            [DISPATCHER, "wait", str(task)],
            env=world.env,
            cwd=world.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        eventually(lambda: _expect_in(world, "no daemon runs here; it waits"))
        world.cli("cancel", task)
        printed, _ = waiting.communicate(timeout=PATIENCE)
    finally:
        waiting.kill()
        waiting.wait()

    assert (1, f"{task} cancelled\n") == (waiting.returncode, printed)


def _expect_in(world: World, text: str) -> None:
    assert text in (world.directory / "stderr").read_text()


def test_an_edited_task_runs_as_edited(world: World) -> None:
    task = world.submit("false", delay="1h", env="LEVEL=1")
    script = 'echo "level $LEVEL"; exit 0'
    with world.daemon() as daemon:
        daemon.expect("executor.connected")
        world.cli("edit", task, "--delay", "0s", "--env", "LEVEL=3", "--", *shell(script))
        world.until(task, "succeeded")

    assert "level 3\n" == world.cli("logs", task).stdout


def test_a_running_task_keeps_what_it_began_with_until_it_is_held(world: World) -> None:
    task = world.submit("sleep", "3600")
    with world.daemon():
        world.until(task, "running")
        message = world.cli("edit", task, "--", "true", exits=1).stderr
        assert f"`dispatcher hold {task}` ends its run first" in message
        world.cli("hold", task)
        world.until(task, "held")
        world.cli("edit", task, "--", "true")
        world.cli("release", task)
        assert ["true"] == world.until(task, "succeeded")["command"]


def test_a_script_runs_with_its_options_and_arguments(world: World) -> None:
    script = world.directory / "job.sh"
    script.write_text('#!/bin/sh\n#DISPATCHER --max-attempts 1 -n job\necho "$# $1"; exit 3\n')
    with world.daemon():
        world.cli("submit", "--script", "job.sh", "--wait", "--", "a b", exits=1)

    shown = world.show(1)
    assert ("failed", 1, {"name": "job"}) == (
        *(shown["state"], shown["max_attempts"], shown["labels"]),
    )
    assert "1 a b\n" == world.cli("logs", 1).stdout


def test_each_line_of_a_shell_is_run(world: World) -> None:
    lines = "echo a | tr a b > 1\necho c > 2\n"
    with world.daemon():
        world.cli("submit", "--from", "-", "--wait", stdin=lines)

    assert ("b\n", "c\n") == tuple((world.directory / name).read_text() for name in ("1", "2"))
