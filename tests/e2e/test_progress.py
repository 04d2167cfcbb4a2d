"""Bars: on a terminal while it takes long, and nowhere else."""

import os
import pty
import re
import subprocess
from pathlib import Path

from tests.e2e.helpers import shell
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE


def on_a_terminal(
    world: World, *arguments: str, stdout: Path | None = None, **environ: str
) -> tuple[int, str]:
    """Run the command with stderr, and stdout unless that is a file, on a terminal."""
    leader, follower = pty.openpty()
    with open(os.devnull if stdout is None else stdout, "wb") as file:
        process = subprocess.Popen(
            [DISPATCHER, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=follower if stdout is None else file,
            stderr=follower,
            env={**world.env, "TERM": "xterm", "COLUMNS": "120", **environ},
        )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65_536):
            shown += chunk
    except OSError:  # the other side was closed
        pass
    os.close(leader)
    return process.wait(PATIENCE), shown.decode()


def test_a_drain_shows_how_much_is_done_below_the_log(world: World) -> None:
    world.configure(logs={"format": "console", "level": "info"}, node={"slots": 1})
    for _ in range(3):
        world.submit("sleep", "0.8")

    code, shown = on_a_terminal(world, "run", "--drain")

    assert 0 == code
    assert re.search(r"done .*[12]/3", shown)
    # Each line of the log takes the bar's place; none stands behind a bar.
    assert 3 == shown.count("run.settled")
    logged = [line for line in shown.split("\n") if "run.settled" in line]
    for line in logged:
        assert "━" not in line.rpartition("\x1b[2K")[2]


def test_a_drain_into_a_file_keeps_the_bar_on_the_terminal(world: World) -> None:
    world.submit("sleep", "1.2")
    world.submit("sleep", "1.2")
    log = world.directory / "drain.log"

    code, shown = on_a_terminal(world, "run", "--drain", stdout=log)

    assert 0 == code
    assert "/2" in shown
    assert "run.settled" not in shown
    assert "\x1b" not in log.read_text()
    assert 2 == log.read_text().count('"run.settled"')


def test_a_waiting_submit_shows_a_bar_that_disappears_and_a_pipe_gets_only_the_id(
    world: World,
) -> None:
    with world.daemon():
        code, shown = on_a_terminal(world, "submit", "--wait", "--", *shell("sleep 1.2"))
        piped = world.cli("submit", "--wait", "--", "sleep", "0.6")

    assert 0 == code
    assert shown.startswith("1\r\n")
    assert re.search(r"done .*0/1", shown)
    assert shown.endswith("\x1b[2K")
    assert ("2\n", "") == (piped.stdout, piped.stderr)
