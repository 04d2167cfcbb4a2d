"""Messages for another user: they name the owner, and never report that something hangs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.helpers import as_user, ordinary_user
from tests.e2e.world import World

WRONG = ("hangs", "restart it", "not running", "none runs", "no daemon runs")


def opened(world: World) -> World:
    """Let another user go into a world, but not into its state directory."""
    if ordinary_user() == os.geteuid():
        pytest.skip("needs root: it becomes another user")
    world.directory.chmod(0o755)
    return world


@pytest.fixture
def stranger(world: World) -> World:
    """A world whose commands a user runs who has no part in it, once `begin` was called."""
    return opened(world)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bytecode: Path) -> Iterator[World]:
    """Such a world with a daemon, which no stranger disturbs."""
    world = World(tmp_path_factory.mktemp("served"), bytecode)
    try:
        opened(world)
        with world.daemon() as daemon:
            world.until(world.submit("true"), "succeeded")
            yield world
            assert daemon.process.poll() is None
    finally:
        world.close()


def begin(world: World) -> None:
    world.prefix = (*as_user(ordinary_user()), "--regid=65534")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status"], 78),
        (["why", 1], 78),
        (["submit", "--", "true"], 78),
        (["doctor"], 1),
        (["reload"], 1),
        (["stop"], 1),
        (["restart"], 1),
        (["restore", "copy.db"], 78),
        (["run"], 78),
        (["executor"], 78),
        (["restore", "/etc/passwd"], 78),
    ],
)
def test_a_stranger_gets_the_name_of_the_owner(
    served: World, arguments: list[str | int], code: int
) -> None:
    begin(served)
    try:
        result = served.cli(*arguments, exits=code)
    finally:
        served.prefix = ()

    printed = result.stdout + result.stderr
    assert not any(wrong in printed for wrong in WRONG), printed
    if arguments[0] not in {"run", "executor"}:
        assert "belongs to user root; run this as that user: sudo -u root" in printed


def test_a_user_of_the_store_without_access_to_the_daemon_is_informed(stranger: World) -> None:
    world = stranger
    with world.daemon():
        world.until(world.submit("true"), "succeeded")
        world.cli("pause", "default")
        task = world.submit("true")
        for path in (world.state_dir, *world.state_dir.glob("tasks.db*"), world.runtime_dir):
            path.chmod(0o777)
        begin(world)

        status = world.cli("status", "--json").json
        why = world.cli("why", task).stdout
        doctor = world.cli("doctor", exits=1).stdout
        world.prefix = ()

    assert ("not ours", "not ours") == (status["daemon"], status["health"])
    assert "the daemon is another user's, and does not answer this one" in why
    assert "bad      daemon           a daemon answers its own user alone; " in doctor
    printed = status["daemon"] + why + doctor
    assert not any(wrong in printed for wrong in WRONG), printed
