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
