"""What a service manager receives from the daemon (sd_notify(3)), on a socket of ours."""

import signal
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.e2e.helpers import external_executor, shell
from tests.e2e.world import World
from tests.eventually import eventually, let_pass


class Manager:
    """Receives the daemon's messages; answers nothing, as systemd."""

    def __init__(self, world: World) -> None:
        path = f"{world.runtime_dir}/manager"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(path)
        self.received: list[str] = []
        self.env = {"NOTIFY_SOCKET": path}

    def receive(self) -> list[str]:
        """Return all messages so far."""
        with suppress(BlockingIOError):
            while True:
                self.received.append(self.socket.recv(4096).decode())
        return self.received

    def expect(self, *words: str) -> None:
        def probe() -> None:
            self.receive()
            rest = iter(self.received)
            missing = [w for w in words if not any(line.startswith(w) for line in rest)]
            assert not missing, f"{missing} not in this order in {self.received}"

        eventually(probe)


@pytest.fixture
def manager(world: World) -> Iterator[Manager]:
    manager = Manager(world)
    yield manager
    manager.socket.close()


def test_ready_status_watchdog_stopping(world: World, manager: Manager) -> None:
    world.configure(node={"slots": 2})
    world.submit(*shell("while [ ! -e go ]; do sleep 0.02; done"))
    with world.daemon(env=manager.env | {"WATCHDOG_USEC": "900000"}) as daemon:
        manager.expect("READY=1", "STATUS=1 of 2 slots busy", "WATCHDOG=1", "WATCHDOG=1")

        daemon.signal(signal.SIGTERM)
        manager.expect("STOPPING=1", "STATUS=stopping (drain); 1 of 2", "EXTEND_TIMEOUT_USEC=")
        (world.directory / "go").touch()
        assert 0 == daemon.wait()


def test_r60_a_stopped_loop_gives_no_sign_of_life(world: World, manager: Manager) -> None:
    """A process that hangs must not look healthy."""
    with world.daemon(env=manager.env | {"WATCHDOG_USEC": "300000"}) as daemon:
        manager.expect("READY=1", "WATCHDOG=1")
        daemon.signal(signal.SIGSTOP)
        try:
            eventually(lambda: _expect_stopped(daemon.process.pid))
            count = len(manager.receive())
            let_pass(0.5)  # it would have been due three times
            assert count == len(manager.receive())
        finally:
            daemon.signal(signal.SIGCONT)
        manager.expect(*["WATCHDOG=1"] * (count + 1))


def test_the_status_shows_that_it_waits_for_the_executor(world: World, manager: Manager) -> None:
    world.configure(executor={"mode": "external"})
    with world.daemon(env=manager.env):
        manager.expect("STATUS=waits for the executor; 0 of", "READY=1")


def test_an_idle_executor_without_a_watchdog_is_ready_at_once(
    world: World, manager: Manager
) -> None:
    """It waits for nothing then, and nothing else would end its first wait."""
    world.configure(executor={"mode": "external"})
    prefix = ("env", f"NOTIFY_SOCKET={manager.env['NOTIFY_SOCKET']}", "WATCHDOG_USEC=0")
    with external_executor(world, prefix=prefix) as executor:
        manager.expect("STATUS=0 runs", "READY=1")

        executor.terminate()
        manager.expect("STOPPING=1")


def _expect_stopped(pid: int) -> None:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        assert "T" == stat.read().rpartition(")")[2].split()[0]
