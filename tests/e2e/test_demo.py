"""The demo: what a newcomer sees first."""

import re
import socket
from pathlib import Path
from xml.etree import ElementTree as ET

from dispatcher.demo.cast import cast
from tests.e2e.world import World

ROOT = Path(__file__).parents[2]


def test_the_demo_shows_what_was_expected_and_what_came_and_leaves_nothing(world: World) -> None:
    folder = world.directory / "folder"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(f"{number}\n" * 10_000)

    picture = world.directory / "demo.svg"
    arguments = ("demo", folder, "--svg", picture)
    shown = world.cli(*arguments, env={"TMPDIR": str(world.runtime_dir)}).stdout

    story, promises = shown.split("the promises; for workers, the fence and outcome of each run:\n")
    assert "killed the daemon (SIGKILL)" in story
    assert "  silent: succeeded (lost, succeeded)\n" in story
    assert 12 == len(promises.splitlines())
    assert {"ok"} == {line.split()[0] for line in promises.splitlines()}
    assert (
        "early: exits 75 twice: too early: 1 deferred, 2 deferred, 3 succeeded, as promised"
        in shown
    )
    assert [] == list(world.runtime_dir.iterdir())
    assert [] == world.processes()
    drawn = words(picture)
    for line in promises.splitlines():
        assert line in drawn
    for ours in (world.directory, world.runtime_dir, folder, socket.gethostname()):
        assert not re.search(rf"\b{re.escape(str(ours))}\b", drawn)


def test_the_picture_in_the_readme_is_one_of_a_demo_that_kept_every_promise() -> None:
    assert "](docs/demo.svg)" in (ROOT / "README.md").read_text()
    drawn = words(ROOT / "docs" / "demo.svg")

    assert "killed the daemon (SIGKILL)" in drawn
    assert 12 == len(re.findall(r"\bok     ", drawn)) == drawn.count(", as promised")
    assert "FAILED" not in drawn
    for part in cast(Path("trail")):
        assert part.does in drawn


def words(picture: Path) -> str:
    root = ET.fromstring(picture.read_text("utf-8"))
    return "".join(root.itertext()).replace("\xa0", " ")
