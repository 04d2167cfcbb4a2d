import os
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dispatcher.store.statements import dependencies
from dispatcher.supervisor import claimer
from tests.model.family import Family
from tests.model.on_a_server import ServerWorld
from tests.postgres import Postgres

FUZZ = "FUZZ" in os.environ

#: Tasks of a graph.
SIZE = 2_000 if FUZZ else 150

pytestmark = pytest.mark.usefixtures("quiet", "short_steps")


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass ends on in very short steps, between which a daemon may die."""
    monkeypatch.setattr(claimer, "RESOLVE_BATCH", 2)
    monkeypatch.setattr("dispatcher.store.dependencies._PARENTS", 2)


@pytest.mark.parametrize("seed", range(20 if FUZZ else 2))
def test_r43_a_random_graph_is_run_as_a_plain_model_says_whenever_its_daemon_dies(
    seed: int,
) -> None:
    """With failures, cancels, holds, releases, retries and deletions, also while no daemon runs."""
    family = Family(seed, SIZE)

    family.run()

    assert family.deaths > 3


@pytest.mark.parametrize("seed", range(5 if FUZZ else 1))
def test_r43_so_it_is_on_a_server(seed: int, postgres: Postgres, tmp_path: Path) -> None:
    family = Family(seed, SIZE, make=partial(ServerWorld, server=postgres, state_dir=tmp_path))
    with closing(family.store):
        family.run()

    assert family.deaths > 3


@pytest.mark.parametrize(
    ("name", "sound", "planted"),
    [
        ("AWAITED_NO_MORE", "AND NOT EXISTS", "OR NOT EXISTS"),
        ("BROKEN", "dependencies.state = 'broken'", "FALSE"),
        ("COUNT", "AND dependencies.state = 'open'", ""),
        ("WAIVE", "state = 'met'", "state = state"),
        ("OPEN", "dependencies.state = 'open'", "tasks.on_parent_failure IS NULL"),
    ],
)
def test_a_planted_bug_is_found(
    name: str, sound: str, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = getattr(dependencies, name)
    assert sound in text
    monkeypatch.setattr(dependencies, name, text.replace(sound, planted))

    with pytest.raises(AssertionError):
        Family(0, 150).run()
