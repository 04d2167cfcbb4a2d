"""Tests that need a namespace, a mount or another user: `make test-system`, as root.

A test is skipped with the name of the program that it lacks.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.users import belongs_to_a_user
from tests.e2e.world import World
from tests.system import booted, trees
from tests.system.booted import Machine
from tests.system.places import Elsewhere, Namespace

#: Makes every kind of namespace that these tests use, and mounts in it.
_TRIAL = ("unshare", "--pid", "--fork", "--mount-proc", "true")


def lacking() -> str | None:
    """Return what is missing on this host, if anything."""
    if os.geteuid() != 0:
        return "needs root: it makes namespaces, mounts in them and becomes another user"
    for program in ("unshare", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            return f"there is no {program} (Debian: apt install util-linux)"
    trial = subprocess.run(_TRIAL, capture_output=True, text=True, check=False)
    return f"no namespaces here: {trial.stderr.strip()}" if trial.returncode else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let machines run side by side, the long ones first, and what shares this host in its turn."""
    for item in items:
        if not _MACHINES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("this-host"))
    items.sort(key=lambda item: not item.name.startswith("test_r61_whatever"))


#: Fixtures of hosts that share nothing with this one.
_MACHINES = {"machine", "host", "lab"}


@pytest.fixture(scope="session")
def privileged() -> None:
    if (reason := lacking()) is not None:
        pytest.skip(reason)


#: Debian 12 has systemd 252, Debian 13 has 257.
@pytest.fixture(params=["bookworm", "trixie"])
def machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A host that booted, with the command `dispatcher` and no service yet."""
    if (reason := booted.lacking()) is not None:
        pytest.skip(reason)
    tree = trees.debian(request.param)
    site = trees.installed(tree, trees.shared(tmp_path_factory))
    with Machine(tree, site) as machine:
        yield machine


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def world(tmp_path: Path, bytecode: Path) -> Iterator[World]:
    world = World(tmp_path, bytecode)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def users_world(privileged: None, world: World) -> World:
    """The world of an ordinary user who has no other process."""
    belongs_to_a_user(world)
    return world


@pytest.fixture
def namespace(privileged: None) -> Iterator[Namespace]:
    with Namespace() as namespace:
        yield namespace


@pytest.fixture
def elsewhere(tmp_path: Path, bytecode: Path, namespace: Namespace) -> Iterator[Elsewhere]:
    """A world in a pid namespace whose init reaps."""
    world = Elsewhere(tmp_path, bytecode, namespace)
    try:
        yield world
    finally:
        world.close()
