"""Every mistake of the table is made, and gets the message of the table."""

from collections.abc import Iterator

import pytest

from tests.e2e import mistaken, mistaken_daemons
from tests.e2e.mistaken import Place
from tests.e2e.world import World
from tests.mistakes.kinds import Mistake
from tests.mistakes.table import CANNOT_START, MISTAKES

EACH = [mistake for group in MISTAKES.values() for mistake in group]
IN_PROCESS = [mistake for mistake in EACH if mistake.scene not in mistaken_daemons.SCENES]
OF_PROCESSES = [mistake for mistake in EACH if mistake.scene in mistaken_daemons.SCENES]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    place = Place(monkeypatch, capsys)
    try:
        yield place
    finally:
        place.close()


@pytest.mark.parametrize("mistake", IN_PROCESS, ids=lambda mistake: mistake.name)
def test_r87_each_mistake_gets_its_message(place: Place, mistake: Mistake) -> None:
    made = place.make(mistake)

    assert (mistake.text, mistake.exits) == (place.as_written(made.stderr), made.exit_code)


@pytest.mark.parametrize("mistake", OF_PROCESSES, ids=lambda mistake: mistake.name)
def test_each_mistake_among_processes_gets_its_message(world: World, mistake: Mistake) -> None:
    made = mistaken_daemons.SCENES[mistake.scene](world)

    assert (mistake.text, mistake.exits) == (
        mistaken_daemons.as_written(world, made.stderr),
        made.exit_code,
    )


def test_each_command_that_cannot_be_started_has_its_reason(world: World) -> None:
    script = "#!/bin/sh\n"
    for name, text, mode in (
        ("plain.sh", script, 0o644),
        ("strange.sh", "#!/opt/strange/bin/run\n", 0o755),
        ("windows.sh", "#!/bin/sh\r\n", 0o755),
        ("bare.sh", "echo hello\n", 0o755),
        ("marked.sh", "\ufeff#!/bin/sh\n", 0o755),
    ):
        (world.directory / name).write_text(text)
        (world.directory / name).chmod(mode)
    (world.directory / "folder").mkdir()
    usual = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    for one in CANNOT_START:
        world.cli("submit", "--max-attempts", 1, *mistaken.split(one.submitted), env=usual)

    with world.daemon("--drain") as daemon:
        daemon.wait()

    messages = {}
    for number, one in enumerate(CANNOT_START, start=1):
        (run,) = world.show(number)["runs"]
        assert "spawn_failed" == run["outcome"], run
        messages[one.name] = mistaken_daemons.as_written(world, run["error"])
    assert {one.name: one.text for one in CANNOT_START} == messages


def test_the_table_is_whole() -> None:
    assert len(EACH) + len(CANNOT_START) >= 100
    assert len({mistake.name for mistake in EACH}) == len(EACH)
    scenes = {*mistaken.SCENES, *mistaken_daemons.SCENES, ""}
    assert scenes == {mistake.scene for mistake in EACH}
    for mistake in EACH:
        assert mistake.text, mistake.name
        assert mistake.exits in {1, 2, 69, 74, 75, 78, 79}, mistake.name
