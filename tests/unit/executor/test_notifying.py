"""What the service manager receives from the executor."""

from pathlib import Path

import pytest

from dispatcher.executor.executor import LONGEST_WAIT
from dispatcher.times import Instant
from tests.unit.executor.world import World


class FakeNotifier:
    """Keeps what would be sent."""

    def __init__(self, *, interval: float | None = 0.5, room: bool = True) -> None:
        self.interval = interval
        self.room = room
        """Whether the manager's queue takes a message."""
        self.is_ready = False
        self.sent: list[str] = []

    def report_ready(self) -> None:
        if self.room:
            self.is_ready = True
            self._send("ready")

    def report_status(self, text: str) -> None:
        self._send(text)

    def send_sign_of_life(self, *, at: Instant) -> None:
        self._send("alive")

    def report_stopping(self) -> None:
        self._send("stopping")

    def extend_stop(self, *, at: Instant) -> None:
        self._send("stays")

    def _send(self, word: str) -> None:
        if word not in self.sent:
            self.sent.append(word)


def test_it_reports_its_status_and_its_life_even_with_nothing_to_do(tmp_path: Path) -> None:
    notifier = FakeNotifier()
    world = World(tmp_path, notifier=notifier)

    assert ["alive", "0 runs", "ready"] == notifier.sent
    assert 0.5 == world.executor.patience(None)

    world.start()
    world.shut_down()
    assert ["1 runs", "stopping", "stays"] == notifier.sent[3:]


class Waits(Exception):
    """The executor begins to wait."""


def _waits() -> None:
    raise Waits


@pytest.mark.parametrize("interval", [10.0, None])
def test_an_idle_executor_is_ready_before_its_first_wait(
    tmp_path: Path, interval: float | None
) -> None:
    """`WatchdogSec=0` gives no interval, and then nothing would end that wait."""
    notifier = FakeNotifier(interval=interval)
    world = World(tmp_path, greeted=False, notifier=notifier)
    world.kernel.stop = 0.0, _waits

    with pytest.raises(Waits):
        world.executor.run()

    assert ["alive", "0 runs", "ready"] == notifier.sent


def test_a_notification_that_met_a_full_queue_is_sent_again(tmp_path: Path) -> None:
    notifier = FakeNotifier(interval=None, room=False)
    world = World(tmp_path, notifier=notifier)
    assert LONGEST_WAIT == world.executor.patience(None)

    notifier.room = True
    world.run_for(LONGEST_WAIT)

    assert "ready" in notifier.sent
    assert world.executor.patience(None) is None
