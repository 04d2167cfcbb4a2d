"""Bars: on a terminal while it takes long, and nowhere else."""

import re

from tests.e2e.helpers import on_a_terminal, shell
from tests.e2e.world import World


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

    with log.open("wb") as file:
        code, shown = on_a_terminal(world, "run", "--drain", stdout=file)

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
