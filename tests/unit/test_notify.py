"""systemd's notify protocol, against a socket of ours (sd_notify(3))."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.host.notify import Notifier
from dispatcher.times import Instant


class Manager:
    """A service manager's socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.environ = {"NOTIFY_SOCKET": address}

    def received(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096, socket.MSG_DONTWAIT).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@test-{tmp_path}"[:100]
    manager = Manager(address)
    with closing(manager.socket):
        yield manager


def test_ready_is_sent_once_and_again_after_a_reload(manager: Manager) -> None:
    with closing(Notifier(manager.environ)) as notifier:
        notifier.report_ready()
        notifier.report_ready()
        assert ["READY=1"] == manager.received()

        notifier.report_reloading()
        notifier.report_ready()
        reloading, ready = manager.received()
        assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert "READY=1" == ready


def test_a_ready_that_nobody_took_is_sent_again(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with closing(Notifier({"NOTIFY_SOCKET": path})) as notifier:
        notifier.report_ready()
        assert not notifier.is_ready

        late = Manager(path)
        with closing(late.socket):
            notifier.report_ready()
            assert ["READY=1"] == late.received()
            assert notifier.is_ready


def test_a_status_is_sent_when_it_changes(manager: Manager) -> None:
    with closing(Notifier(manager.environ)) as notifier:
        for text in ("0 of 2", "0 of 2", "1 of 2"):
            notifier.report_status(text)
    assert ["STATUS=0 of 2", "STATUS=1 of 2"] == manager.received()


def test_signs_of_life_come_a_third_of_the_interval_apart(manager: Manager) -> None:
    manager.environ |= {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    with closing(Notifier(manager.environ)) as notifier:
        assert 1.0 == notifier.interval
        for at in (100.0, 100.5, 101.0, 101.9, 102.0):
            notifier.send_sign_of_life(at=Instant(at))
    assert ["WATCHDOG=1"] * 3 == manager.received()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_watchdog_no_sign_of_life(manager: Manager, environ: dict[str, str]) -> None:
    with closing(Notifier(manager.environ | environ)) as notifier:
        assert notifier.interval is None
        notifier.send_sign_of_life(at=Instant(100.0))
    assert [] == manager.received()


def test_a_long_stop_is_extended_now_and_then(manager: Manager) -> None:
    with closing(Notifier(manager.environ)) as notifier:
        notifier.report_stopping()
        for at in (100.0, 101.0, 109.9, 110.0):
            notifier.extend_stop(at=Instant(at))
    assert ["STOPPING=1", *["EXTEND_TIMEOUT_USEC=30000000"] * 2] == manager.received()


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}):
        with closing(Notifier(environ)) as notifier:
            notifier.report_ready()
            notifier.report_status("fine")
            assert notifier.has_manager is bool(environ)
