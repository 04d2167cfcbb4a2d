"""The writer of the metrics' file: one at a time, and its troubles logged once."""

import selectors
import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import structlog

from dispatcher.config.config import Config, load
from dispatcher.daemon.textfile import LOG_AGAIN, SLOW, Textfile
from dispatcher.times import Instant


class World:
    """A textfile whose writers are shells, and the loop's selector."""

    def __init__(self, directory: Path, selector: selectors.BaseSelector) -> None:
        file = directory / "dispatcher.toml"
        file.write_text("[metrics]\ntextfile = '/exported/dispatcher.prom'\ninterval = '10s'")
        self.selector = selector
        config = load(str(file), {"STATE_DIRECTORY": str(directory), "RUNTIME_DIRECTORY": "/r"})
        self.script = ""
        self.textfile = Textfile(selector, config=config, command=self.command)

    def command(self, config: Config) -> list[str]:
        return ["sh", "-c", self.script, str(config.metrics.textfile)]

    def writes(self, script: str, *, at: float, ends: bool = True) -> None:
        self.script = script
        self.due = self.textfile.run_due(Instant(at))
        if ends:
            ((key, mask),) = self.selector.select(10)
            key.data(Instant(at), mask)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with selectors.DefaultSelector() as selector:
        world = World(tmp_path, selector)
        with closing(world.textfile):
            yield world


def test_the_cause_of_an_unwritten_file_is_logged_once_until_it_changes(world: World) -> None:
    with structlog.testing.capture_logs() as logs:
        for at in (0, 10, 20, LOG_AGAIN, LOG_AGAIN + 10):
            world.writes("echo dispatcher: no room >&2; exit 1", at=at)
        world.writes("exit 3", at=5_000)
        world.writes("exit 0", at=5_010)
        world.writes("exit 0", at=5_020)

    logged = [(log["event"], log.get("reason")) for log in logs]
    unwritten = "metrics.unwritten"
    assert [
        (unwritten, "no room"),
        (unwritten, "no room"),
        (unwritten, "exit code 3"),
        ("metrics.written", None),
    ] == logged
    assert world.due == 5_030


def test_a_traceback_is_reported_by_its_last_line_and_as_the_reason_until_a_success(
    world: World,
) -> None:
    """As while an upgrade replaces the modules."""
    lines = ("Traceback (most recent call last):", "x" * 5000, "ImportError: No module")
    program = f"printf '%s\\n' {shlex.join(lines)} >&2; exit 1"
    with structlog.testing.capture_logs() as logs:
        world.writes(program, at=0)
        failure = world.textfile.failure()
        world.writes("exit 0", at=10)

    assert logs[0]["reason"] == failure
    assert "ImportError: No module" == failure
    assert world.textfile.failure() is None


def test_no_second_writer_starts_while_one_hangs(world: World) -> None:
    before = set(psutil.Process().children())
    with structlog.testing.capture_logs() as logs:
        world.writes("exec sleep 1000", at=0, ends=False)
        (writer,) = set(psutil.Process().children()) - before
        world.writes("exit 0", at=10, ends=False)
        assert ([], {writer}) == (logs, set(psutil.Process().children()) - before)
        world.writes("exit 0", at=SLOW, ends=False)

    assert ["the last writer has not ended within 60 s"] == [log["reason"] for log in logs]
    world.textfile.close()
    assert not writer.is_running()


def test_without_a_file_nothing_is_ever_due(tmp_path: Path) -> None:
    config = load(None, {"STATE_DIRECTORY": str(tmp_path), "RUNTIME_DIRECTORY": "/r"})
    with selectors.DefaultSelector() as selector:
        assert Textfile(selector, config=config).run_due(Instant(1.0)) == float("inf")
