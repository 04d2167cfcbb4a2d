"""Several nodes on one server: where tasks run, limits on all of them, and a copied node."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.world import World
from tests.eventually import eventually
from tests.postgres import Postgres

SCHEMA = "nodes"

#: Becomes another host, whose processes and sockets the first one does not see.
RENAMED = 'echo elsewhere > /proc/sys/kernel/hostname && exec "$@"'
ELSEWHERE = ("unshare", "--uts", "--net", "sh", "-c", RENAMED, "-")

#: Takes one of two places, and fails if both are taken.
WITHIN_TWO = """
if mkdir one; then place=one; elif mkdir two; then place=two; else exit 1; fi
sleep 0.03
rmdir $place
"""


@pytest.fixture
def store(postgres: Postgres) -> Iterator[dict[str, str]]:
    """The section of a configuration that names a store on the server."""
    yield {"url": postgres.url(), "schema": SCHEMA}
    postgres.sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


@pytest.fixture
def here(store: dict[str, str], world: World) -> World:
    world.configure(store=store)
    return world


@pytest.fixture
def there(store: dict[str, str], tmp_path: Path, bytecode: Path) -> Iterator[World]:
    (directory := tmp_path / "there").mkdir()
    with closing(World(directory, bytecode)) as other:
        other.configure(store=store)
        yield other


def expect_running(world: World, task: int) -> None:
    assert "running" == world.show(task)["state"]


def test_tasks_run_on_the_node_with_the_labels_that_they_require(
    here: World, there: World, store: dict[str, str]
) -> None:
    here.configure(store=store, **{"node.labels": {"gpu": "a100"}})
    with here.daemon(alone=False) as one, there.daemon(alone=False) as two:
        anywhere = here.submit("true")
        tasks = [there.submit("true", require="gpu=a100") for _ in range(5)]
        nobodys = here.submit("true", require="gpu=h100")
        here.cli("wait", anywhere, *tasks)
        nodes = [daemon.expect("daemon.started")["node"] for daemon in (one, two)]

        assert {nodes[0]} == {here.show(task)["runs"][0]["node"] for task in tasks}
        assert sorted(nodes) == sorted(node["id"] for node in here.cli("nodes", "--json").json)
        assert (
            "labels_missing" == here.cli("why", nobodys, "--json").json["obstacles"][0]["obstacle"]
        )


def test_a_node_that_drains_leaves_the_work_to_the_others(here: World, there: World) -> None:
    with here.daemon(alone=False) as one, there.daemon(alone=False) as two:
        nodes = [daemon.expect("daemon.started")["node"] for daemon in (one, two)]
        there.cli("node", "drain", nodes[0], "--reason", "new kernel")

        tasks = [here.submit("true") for _ in range(5)]
        here.cli("wait", *tasks)

        assert {nodes[1]} == {here.show(task)["runs"][0]["node"] for task in tasks}
        states = {node["id"]: node["state"] for node in there.cli("nodes", "--json").json}
        assert {nodes[0]: "draining", nodes[1]: "up"} == states


def test_a_limit_of_a_queue_holds_on_all_nodes_at_each_instant(
    here: World, there: World, store: dict[str, str]
) -> None:
    limits = {"queues.q": {"global_concurrency": 2, "max_attempts": 1}}
    for world in (here, there):
        world.configure(store=store, **limits)
    with here.daemon(alone=False), there.daemon(alone=False):
        words = ("--queue", "q", "--cwd", here.directory, "--", "sh", "-c", WITHIN_TWO)
        tasks = [here.cli("submit", *words).id for _ in range(40)]

        assert 0 == here.cli("wait", *tasks).exit_code


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another host of this one")
def test_a_copy_of_a_node_on_another_host_is_refused_before_it_does_anything(
    here: World, there: World
) -> None:
    tried = subprocess.run([*ELSEWHERE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this container makes no other host: {tried.stderr.strip()}")
    with here.daemon(alone=False) as original:
        running = here.submit("sleep", "60")
        eventually(lambda: expect_running(here, running))
        there.state_dir.mkdir(mode=0o700)
        for name in ("node-id", "store-id"):
            shutil.copy(here.state_dir / name, there.state_dir / name)
        there.prefix = ELSEWHERE

        with there.daemon(alone=False) as copy:
            assert "node.watched" == copy.expect("node.watched")["event"]
            assert 78 == copy.wait()

        assert f"delete {there.state_dir}/node-id and {there.state_dir}/executor.journal" in (
            copy.output()
        )
        expect_running(here, running)
        assert "executor.connected" not in copy.output()
        here.cli("cancel", running)
        here.cli("wait", running, exits=1)
        original.terminate()
        assert 0 == original.wait()
        assert "stopped" == here.cli("nodes", "--json").json[0]["state"]
