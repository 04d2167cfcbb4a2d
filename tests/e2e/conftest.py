from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World


@pytest.fixture
def world(tmp_path: Path, bytecode: Path) -> Iterator[World]:
    world = World(tmp_path, bytecode)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def installed(world: World) -> None:
    """Run each verb as the installed command, in a process of its own."""
    world.in_process = frozenset()
