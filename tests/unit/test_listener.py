"""The process of a listener: one at a time, and started again when it ends."""

import selectors
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import structlog

from dispatcher.config.config import Config, load
from dispatcher.daemon.listener import AGAIN, Listener
from dispatcher.times import NEVER, Instant

ADDRESS = "127.0.0.1:7373"


class World:
    """A listener whose processes are shells, and the loop's selector."""

    def __init__(self, directory: Path, selector: selectors.BaseSelector) -> None:
        self.file = directory / "dispatcher.toml"
        self.script = directory / "script"
        self.selector = selector
        self.children = set(psutil.Process().children())
        self.does("exec cat >/dev/null")
        self.names(ADDRESS)
        self.listener = Listener(selector, config=self.config(), command=["sh", str(self.script)])

    def names(self, listen: str | None) -> None:
        keys = "" if listen is None else f"listen = '{listen}'\ntoken_file = '/token'"
        self.file.write_text(f"[peers]\n{keys}\n")

    def config(self) -> Config:
        directory = str(self.file.parent)
        return load(str(self.file), {"STATE_DIRECTORY": directory, "RUNTIME_DIRECTORY": "/r"})

    def does(self, script: str) -> None:
        self.script.write_text(script)

    def turn(self, at: float) -> float:
        """Do what is due, and what a process reports; return when the next is due."""
        due = self.listener.run_due(Instant(at))
        for key, mask in self.selector.select(0):
            key.data(Instant(at), mask)
        return due

    def until_over(self, at: float) -> None:
        """Start the process, and turn until it has ended."""
        self.listener.run_due(Instant(at))
        while self.processes():
            for key, mask in self.selector.select(10):
                key.data(Instant(at), mask)

    def until_logged(self, logs: list[dict[str, object]], event: str, at: float) -> None:
        while event not in [log["event"] for log in logs]:
            self.listener.run_due(Instant(at))
            for key, mask in self.selector.select(10):
                key.data(Instant(at), mask)

    def processes(self) -> set[psutil.Process]:
        return set(psutil.Process().children()) - self.children


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with selectors.DefaultSelector() as selector:
        world = World(tmp_path, selector)
        with closing(world.listener):
            yield world


def test_a_listener_that_fails_is_started_again_ever_later_and_its_reason_logged_once(
    world: World,
) -> None:
    world.does("echo cannot listen >&2; exit 78")
    with structlog.testing.capture_logs() as logs:
        for at, due in ((0.0, 1.0), (1.0, 3.0), (3.0, 7.0)):
            world.until_over(at)
            assert due == world.listener.run_due(Instant(at))
        world.does("exit 3")
        world.until_over(7.0)

    assert ["cannot listen", "exit code 3"] == [log["reason"] for log in logs]
    assert "exit code 3" == world.listener.failure()


def test_a_listener_that_is_ready_is_logged_and_is_no_failure_any_more(world: World) -> None:
    world.does("exit 3")
    world.until_over(0.0)
    world.does("""echo '{"ready":true}'; exec cat >/dev/null""")
    with structlog.testing.capture_logs() as logs:
        world.until_logged(logs, "listener.started", AGAIN[0])

    assert [f"tcp://{ADDRESS}"] == [log["address"] for log in logs]
    assert world.listener.failure() is None
    assert NEVER == world.turn(AGAIN[0])


def test_its_refusals_are_logged(world: World) -> None:
    world.does("""echo '{"peer":"10.0.0.9","refused":"no token"}'; exec cat >/dev/null""")
    with structlog.testing.capture_logs() as logs:
        world.until_logged(logs, "listener.refused", 0.0)

    assert [("10.0.0.9", "no token")] == [(log["peer"], log["reason"]) for log in logs]


def test_a_reload_replaces_it_without_a_failure_and_removes_it_with_its_address(
    world: World,
) -> None:
    world.turn(0.0)
    (first,) = world.processes()
    with structlog.testing.capture_logs() as logs:
        world.listener.configure(world.config())
        while first in world.processes():
            world.turn(1.0)
        world.turn(1.0)
        (second,) = world.processes()
        world.names(None)
        world.listener.configure(world.config())
        while second in world.processes():
            world.turn(2.0)

        assert NEVER == world.turn(1e6)
    assert [] == logs
    assert set() == world.processes()


def test_it_gets_the_section_and_ends_with_the_daemon(world: World) -> None:
    written = world.file.parent / "written"
    world.does(f"head -n 1 >{written}; exec cat >/dev/null")
    world.turn(0.0)
    (process,) = world.processes()
    world.listener.close()

    assert not process.is_running()


def test_without_an_address_nothing_is_ever_due(tmp_path: Path) -> None:
    config = load(None, {"STATE_DIRECTORY": str(tmp_path), "RUNTIME_DIRECTORY": "/r"})
    with selectors.DefaultSelector() as selector:
        assert NEVER == Listener(selector, config=config).run_due(Instant(1.0))
