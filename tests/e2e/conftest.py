from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of one session keep their compiled modules."""
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def world(tmp_path: Path, bytecode: Path) -> Iterator[World]:
    world = World(tmp_path, bytecode)
    try:
        yield world
    finally:
        world.close()
