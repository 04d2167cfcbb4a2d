"""The lease protocol as a whole: no history of operations may break it, and no bug may hide."""

import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from dispatcher.errors import StoreRefused
from tests.model.plants import PLANTS, Plant
from tests.model.protocol import LeaseProtocol
from tests.postgres import Postgres

FUZZ = "FUZZ" in os.environ

#: The same histories each time, unless we hunt for new ones.
HISTORIES = settings(
    derandomize=not FUZZ,
    max_examples=5_000 if FUZZ else 50,
    stateful_step_count=100 if FUZZ else 50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

#: Each step costs a server ten times as much.
ON_A_SERVER = 500 if FUZZ else 10

#: Searches for a planted bug, at most, and histories of each. The first histories of a search are
#: short, and later ones vary them: many short searches find sooner than a long one.
SEARCHES, OF_A_SEARCH = 40, 30


def test_no_history_breaks_the_lease_protocol() -> None:
    run_state_machine_as_test(LeaseProtocol, settings=HISTORIES)


def test_no_history_breaks_it_on_a_server(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LeaseProtocol, "server", postgres)

    run_state_machine_as_test(LeaseProtocol, settings=settings(HISTORIES, max_examples=ON_A_SERVER))


class Searching(LeaseProtocol):
    """A machine of its own, as the seed of a search is kept in the class."""


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_ac1_ac12_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that the machine tests something: each rule of leases, mutated."""
    plant.put(monkeypatch)

    # By the oracle, or because the bug makes a row that the schema does not take.
    with pytest.raises((AssertionError, StoreRefused)):
        search()


def search() -> None:
    """Run many histories, the same each time."""
    one = settings(HISTORIES, derandomize=False, max_examples=OF_A_SEARCH, phases=[Phase.generate])
    for number in range(SEARCHES):
        run_state_machine_as_test(seed(number)(Searching), settings=one)
