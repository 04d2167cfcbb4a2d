"""A run that forks without end disturbs no other run."""

from tests.e2e.storms import neighbours_of_a_storm
from tests.e2e.world import World


def test_r89_a_neighbour_of_a_fork_storm_is_settled_and_never_reported_unkillable(
    world: World,
) -> None:
    with world.daemon() as daemon:
        neighbours_of_a_storm(world, daemon, 6)
