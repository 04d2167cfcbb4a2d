"""A store that is crowded for long."""

from tests.e2e.test_disturbed_leases import crowd
from tests.e2e.world import World


def test_r10_fifty_writers_and_a_long_reader_for_ten_leases_cost_nobody_a_lease(
    world: World,
) -> None:
    crowd(world, leases=10)
