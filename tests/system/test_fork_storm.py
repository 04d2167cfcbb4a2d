"""A fork storm at full length, with figures (`pytest -rA` shows them)."""

from tests.e2e.storms import in_words, neighbours_of_a_storm
from tests.e2e.world import World


def test_sixty_neighbours_of_a_fork_storm_are_settled_while_it_goes_on(world: World) -> None:
    before, after = forks(), 0
    with world.daemon() as daemon:
        waited = neighbours_of_a_storm(world, daemon, 60)
        after = forks()

    print(f"{in_words(waited)}; {after - before} forks meanwhile")  # noqa: T201


def forks() -> int:
    """Return how many processes this host has forked since it started."""
    with open("/proc/stat", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("processes"))
