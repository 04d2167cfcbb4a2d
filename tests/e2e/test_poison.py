"""Tasks that no executor could be sent: each fails by itself, and its neighbours run."""

import json
import os
from contextlib import closing

from pysqlite3 import dbapi2 as sqlite3

from tests.e2e.helpers import expect_settled
from tests.e2e.world import Daemon, World

#: As JSON six times as long as in memory.
ESCAPED = "\1"


def expect_connected_once(daemon: Daemon) -> None:
    assert 1 == len(daemon.events("executor.connected")), daemon.output()
    assert [] == daemon.events("executor.lost")


def test_a_row_with_a_signal_that_no_kernel_has_is_held_and_its_neighbours_run(
    world: World,
) -> None:
    """An older release may have taken it: nothing but its own start is lost."""
    poison = world.submit("true", max_attempts=2)
    with closing(sqlite3.connect(world.state_dir / "tasks.db")) as store, store:
        store.execute("UPDATE tasks SET kill_signal = 1 << 40 WHERE id = ?", (poison,))
    neighbours = [world.submit("true") for _ in range(3)]

    with world.daemon() as daemon:
        expect_settled(daemon, neighbours, outcome="succeeded")
        task = world.until(poison, "held")
        expect_connected_once(daemon)

    assert [] == task["runs"]
    assert task["reason"].startswith("damaged by hand: kill_signal: expected an integer <= 64")


def test_a_task_too_large_for_one_line_with_its_secrets_fails_with_the_reason(
    world: World,
) -> None:
    secrets = world.directory / "secrets"
    secrets.write_text("".join(f'S{n}="{ESCAPED * 1000}"\n' for n in range(120)))
    large = {"command": ["true", ESCAPED * 131_000], "env_file": str(secrets)}
    world.configure(**{"profiles.large": large})
    poison = {
        "profile": "large",
        "payload": "\\" * 520_000,
        "env": {f"E{n}": ESCAPED * 10_000 for n in range(17)},
        "max_attempts": 1,
    }
    poison_id = world.cli("submit", "--from", "-", stdin=json.dumps(poison)).id
    neighbour = world.submit("true")

    with world.daemon() as daemon:
        expect_settled(daemon, [neighbour], outcome="succeeded")
        task = world.until(poison_id, "failed")
        expect_connected_once(daemon)

    (run,) = task["runs"]
    assert "spawn_failed" == run["outcome"]
    assert "bytes as JSON, more than 4194304; pass what is long in a file" in run["error"]
    assert ESCAPED not in daemon.output()


def test_a_path_that_is_not_utf8_costs_the_task_and_no_executor(world: World) -> None:
    directory = os.fsencode(world.directory) + b"/\xff"
    os.mkdir(directory)
    with open(directory + b"/prog", "w") as file:
        file.write("not executable")
    path = os.fsdecode(directory) + os.pathsep + world.env["PATH"]
    poison = world.cli("submit", "--clean-env", "--max-attempts", 1, "prog").id
    neighbour = world.submit("sleep", "1")

    with world.daemon(env={"PATH": path}) as daemon:
        expect_settled(daemon, [neighbour], outcome="succeeded")
        task = world.until(poison, "failed")
        expect_connected_once(daemon)

    assert "not executable: " in task["runs"][0]["error"]
    assert "\\udcff/prog" in task["runs"][0]["error"]
