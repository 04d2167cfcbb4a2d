"""Executors of another version, of another node, and of a copied directory."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dispatcher import wire
from tests.e2e.helpers import external_executor, is_alive, shell
from tests.e2e.world import World


def installed(world: World, version: int) -> tuple[str, ...]:
    """Install a release that speaks another version of the protocol; return how to run it."""
    directory = world.directory / f"version-{version}"
    shutil.copytree(Path(wire.__file__).parent, directory / "dispatcher")
    code = directory / "dispatcher" / "wire.py"
    ours, theirs = f"\nVERSION = {wire.VERSION}\n", f"\nVERSION = {version}\n"
    code.write_text(code.read_text().replace(ours, theirs))
    return ("env", f"PYTHONPATH={directory}")


@contextmanager
def copied(world: World) -> Iterator[Path]:
    """Go on with a copy of the state directory, in a runtime directory of its own."""
    original = world.state_dir
    world.state_dir = shutil.copytree(original, world.directory / "copy")
    runtime_dir = Path(shutil.copytree(world.runtime_dir, f"{world.runtime_dir}c", ignore=_all))
    world.configure(node={"runtime_dir": str(runtime_dir)})
    try:
        yield original
    finally:
        world.state_dir = original
        world.configure()
        shutil.rmtree(runtime_dir)


def _all(_: str, names: list[str]) -> list[str]:
    return names


def test_an_executor_of_the_version_before_is_worked_with(world: World) -> None:
    world.configure(executor={"mode": "external"})
    before = installed(world, wire.VERSION - 1)
    with external_executor(world, prefix=before), world.daemon(alone=False):
        task = world.submit(*shell("exit 3"), max_attempts=1)
        given = world.cli("submit", *shell("umask; env"), env={"GREETING": "hello"}).id
        clean = world.cli("submit", "--clean-env", *shell("umask; env")).id

        assert 3 == world.until(task, "failed")["runs"][0]["exit_code"]
        lines = {}
        for one in (given, clean):
            world.until(one, "succeeded")
            lines[one] = world.cli("logs", one).stdout.splitlines()
        before_them = os.umask(0o022)
        os.umask(before_them)
        assert [f"{before_them:04o}", "0022"] == [lines[given][0], lines[clean][0]]
        assert [True, False] == ["GREETING=hello" in lines[one] for one in (given, clean)]


@pytest.mark.parametrize("version", [wire.VERSION - 2, wire.VERSION + 1])
def test_r43_an_executor_of_another_version_is_named_until_it_is_replaced(
    world: World, version: int
) -> None:
    world.configure(executor={"mode": "external"})
    other = installed(world, version)
    with world.daemon(alone=False) as daemon:
        task = world.submit("true")
        with external_executor(world, prefix=other, alone=False) as executor:
            assert version == daemon.expect("executor.incompatible")["version"]
            status = world.cli("status", "--json").json
            assert ("incompatible", "degraded") == (status["executor"], status["health"])
            message = f"pid {executor.pid}, speaks version {version}"
            assert message in status["degraded"][0]
            assert message in world.cli("why", task).stdout
            (obstacle,) = world.cli("why", task, "--json").json["obstacles"]
            assert "executor_incompatible" == obstacle["obstacle"]
            text = f"pid {executor.pid} speaks version {version}, {wire.VERSION} is wanted"
            assert text in world.cli("doctor", exits=1).stdout
        with external_executor(world, alone=False):
            daemon.expect("run.settled", task_id=task, outcome="succeeded")


@pytest.mark.parametrize(
    "removed", [(), ("executor.journal",), ("node-id",), ("node-id", "executor.journal")]
)
def test_r82_a_copied_state_directory_ends_nothing_of_the_original(
    world: World, removed: tuple[str, ...]
) -> None:
    """Its journal names the original's processes, and its outputs are named like their runs."""
    with world.daemon() as daemon:
        task = world.submit("sleep", "60")
        worker = psutil.Process(daemon.expect("run.started", task_id=task)["pid"])

        with copied(world) as original:
            for name in removed:
                (world.state_dir / name).unlink()
            if "node-id" in removed:
                with world.daemon(alone=False):
                    other = world.submit("true")
                    world.until(other, "succeeded")
            else:
                refused = world.cli("run", exits=78).stderr
                named = f"pid {daemon.executor().pid}", str(world.state_dir), "node-id", "is a copy"
                assert [] == [words for words in named if words not in refused]
                assert "is a copy" in world.cli("executor", exits=78).stderr

        assert original == world.state_dir
        assert is_alive(worker)
        assert 1 == len(world.show(task)["runs"])
        world.cli("cancel", task)
        world.until(task, "cancelled")


def test_an_executor_whose_state_directory_was_removed_is_named_with_its_pid(world: World) -> None:
    world.configure(executor={"mode": "external"})
    with external_executor(world) as executor:
        with world.daemon(alone=False) as daemon:
            daemon.expect("executor.connected")
        shutil.rmtree(world.state_dir)

        refused = world.cli("run", exits=78).stderr

        assert f"(pid {executor.pid}, node " in refused
        assert f"has lost its state directory: {world.state_dir} was made anew" in refused
        assert refused.endswith(f"which ends its runs: kill {executor.pid}\n")


def test_a_copy_in_the_same_runtime_directory_is_refused_by_the_greeting(world: World) -> None:
    world.configure(executor={"mode": "external"})
    with external_executor(world):
        with world.daemon(alone=False) as daemon:
            task = world.submit("sleep", "60")
            worker = psutil.Process(daemon.expect("run.started", task_id=task)["pid"])
        original = world.state_dir
        world.state_dir = shutil.copytree(original, world.directory / "copy")
        world.configure(executor={"mode": "external"})

        refused = world.cli("run", exits=78).stderr

        assert str(world.state_dir) in refused
        assert is_alive(worker)
        world.state_dir = original
        world.configure(executor={"mode": "external"})
        with world.daemon(alone=False):
            world.cli("cancel", task)
            world.until(task, "cancelled")
