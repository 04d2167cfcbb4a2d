from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.outside import Outside
from tests.crash.stage import Stage, make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with an empty store, to copy."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def stage(template: Path) -> Iterator[Stage]:
    """Directories and a store, with no process yet."""
    with Stage(template) as stage:
        yield stage


@pytest.fixture
def outside(stage: Stage) -> Outside:
    """The same, for daemons and executors that are processes of their own."""
    return Outside(stage)
