"""The node's pause, by argument."""

from __future__ import annotations

from dispatcher.supervisor.pause import Pause
from dispatcher.times import Instant


def test_each_pause_is_twice_as_long_up_to_a_minute_R_35() -> None:
    pause, at, lengths = Pause(), Instant(0.0), []

    for _ in range(8):
        lengths.append(pause.begin("no memory", at=at))
        at = pause.until

    assert [1, 2, 4, 8, 16, 32, 60, 60] == lengths


def test_many_faults_at_once_are_one_pause() -> None:
    pause = Pause()

    assert 1.0 == pause.begin("no memory", at=Instant(0.0))
    assert pause.begin("no memory", at=Instant(0.5)) is None


def test_a_good_start_ends_it_for_good() -> None:
    pause = Pause()
    pause.begin("no memory", at=Instant(0.0))

    pause.end()

    assert not pause.probing
    assert 1.0 == pause.begin("no memory", at=Instant(100.0))
