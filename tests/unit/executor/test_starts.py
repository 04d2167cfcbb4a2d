"""When a start is reported: late enough that a run which ends at once is reported in one batch."""

from pathlib import Path

import pytest

from dispatcher import wire
from dispatcher.executor.leaders import REPORT_DELAY
from tests.unit.executor.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_start_is_reported_in_time(world: World) -> None:
    world.start("first")
    world.run_for(REPORT_DELAY / 2)
    world.start("second")
    assert [] == world.sent(wire.Started)

    world.run_for(REPORT_DELAY * 0.6)
    assert ["first"] == [started.uid for started in world.sent(wire.Started)]

    world.run_for(REPORT_DELAY)
    assert ["first", "second"] == [started.uid for started in world.sent(wire.Started)]


def test_a_run_that_ends_at_once_is_reported_in_one_batch_start_first(world: World) -> None:
    other = world.start("other")
    leader = world.start("short")
    world.kernel.dies(leader)
    world.run_for(0)

    sent = [m for m in world.server.sent if isinstance(m, wire.Started | wire.Exited)]
    assert [(wire.Started, "short"), (wire.Exited, "short")] == [(type(m), m.uid) for m in sent]

    world.kernel.dies(other)
    world.run_for(1)
    assert 1 == sum(started.uid == "short" for started in world.sent(wire.Started))
