"""What a tick looks at depends on what happens in it, not on how many runs live."""

from collections import Counter
from pathlib import Path

import pytest

from dispatcher import wire
from dispatcher.executor.run import TrackedRun
from dispatcher.executor.table import RunTable
from dispatcher.times import Instant
from tests.unit.executor.world import World


def looks(tmp_path: Path, live: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often runs are asked when they are due, while one of so many starts and ends."""
    (directory := tmp_path / str(live)).mkdir()
    world, seen = World(directory), Counter[str]()
    for number in range(live):
        world.start(f"run{number}", deadlines={"absence": world.kernel.now + 1000.0 + number})
    world.run_for(1)
    due = TrackedRun.due.fget

    def counted(run: TrackedRun) -> Instant:
        seen["due"] += 1
        assert due is not None
        return Instant(due(run))

    with monkeypatch.context() as patch:
        patch.setattr(TrackedRun, "due", property(counted))
        leader = world.start("one", kill_grace=0.5, deadlines={"absence": world.kernel.now + 900.0})
        world.end("one")
        world.kernel.dies(leader)
        world.run_for(1)
    assert ["one"] == [exited.uid for exited in world.sent(wire.Exited)]
    return seen


def test_a_start_and_an_end_look_at_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (looks(tmp_path, live, monkeypatch) for live in (10, 300))

    assert few
    assert few == many


def test_a_deadline_that_is_moved_again_and_again_counts_as_moved_last(tmp_path: Path) -> None:
    world = World(tmp_path)
    begin = world.kernel.now
    world.start("run", deadlines={"absence": begin + 10})
    for second in range(500):
        moved = {"absence": begin + 20 + second}
        world.deliver(wire.Renew(deadlines={wire.RunUid("run"): moved}))

    table: RunTable = world.executor.table
    assert begin + 519 == table.due
    world.run_for(500)
    assert [] == world.sent(wire.Changed)
    world.run_for(20)
    assert ["absence"] == [change.ended_by for change in world.sent(wire.Changed)]
