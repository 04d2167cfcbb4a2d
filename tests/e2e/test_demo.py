"""The demo: what a newcomer sees first."""

from __future__ import annotations

import pytest

from tests.e2e.world import World

pytestmark = pytest.mark.timeout(90)


def test_the_demo_shows_what_was_expected_and_what_came_and_leaves_nothing(world: World) -> None:
    folder = world.directory / "folder"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(f"{number}\n" * 10_000)

    shown = world.cli("demo", folder, env={"TMPDIR": str(world.runtime_dir)}, within=60).stdout

    story, promises = shown.split("what was promised; of workers, fence and outcome of each run:\n")
    assert "killed the daemon (SIGKILL)" in story
    assert "  silent: succeeded (lost, succeeded)\n" in story
    assert 12 == len(promises.splitlines())
    assert {"ok"} == {line.split()[0] for line in promises.splitlines()}
    assert "early: exits 75 twice: too early: expected 1 deferred, 2 deferred, 3 succeeded" in shown
    assert [] == list(world.runtime_dir.iterdir())
    assert [] == world.processes()
