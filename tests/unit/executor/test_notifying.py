"""What the service manager hears of the executor."""

from __future__ import annotations

from pathlib import Path

from dispatcher.times import Instant
from tests.unit.executor.world import World


class FakeNotifier:
    """Keeps what would be sent."""

    interval: float | None = 0.5

    def __init__(self) -> None:
        self.said: list[str] = []

    def ready(self) -> None:
        self._say("ready")

    def status(self, text: str) -> None:
        self._say(text)

    def alive(self, *, at: Instant) -> None:
        self._say("alive")

    def stopping(self) -> None:
        self._say("stopping")

    def stays(self, *, at: Instant) -> None:
        self._say("stays")

    def _say(self, word: str) -> None:
        if word not in self.said:
            self.said.append(word)


def test_it_says_how_it_is_and_lives_even_with_nothing_to_do(tmp_path: Path) -> None:
    notifier = FakeNotifier()
    world = World(tmp_path, notifier=notifier)

    assert ["alive", "0 runs", "ready"] == notifier.said
    assert 0.5 == world.executor._patience(None)

    world.start()
    world.shut_down()
    assert ["1 runs", "stopping", "stays"] == notifier.said[3:]
