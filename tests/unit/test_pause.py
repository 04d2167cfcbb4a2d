"""The node's pause, and how many runs its host bears, by argument."""

import math
import random

import pytest

from dispatcher.supervisor.pause import Pause
from dispatcher.times import Instant


def test_r35_each_pause_is_twice_as_long_up_to_a_minute() -> None:
    pause, at, lengths = Pause(), Instant(0.0), []

    for _ in range(8):
        lengths.append(pause.begin("no memory", living=0, at=at))
        at = pause.until

    assert [1, 2, 4, 8, 16, 32, 60, 60] == lengths


def test_many_faults_at_once_are_one_pause() -> None:
    pause = Pause()

    assert 1.0 == pause.begin("no memory", living=0, at=Instant(0.0))
    assert pause.begin("no memory", living=0, at=Instant(0.5)) is None
    assert 0 == pause.room(living=3, at=Instant(0.5))


def test_with_each_good_start_one_more_may_live_until_all_slots_are_used() -> None:
    pause, at = Pause(), Instant(10.0)
    pause.begin("no memory", living=0, at=Instant(0.0))

    rooms = []
    for claimed in range(1, 5):
        rooms.append(pause.room(living=claimed - 1, at=at))
        pause.started(claimed=claimed, slots=4)

    assert (None, None) == (pause.reason, pause.capacity)
    assert math.inf == pause.room(living=4, at=at)
    assert [1, 2, 3, 4] == rooms
    assert 1.0 == pause.begin("no memory", living=2, at=at), "the next one is the first again"


def test_a_passing_fault_keeps_nothing_waiting_for_runs_that_live_long() -> None:
    """Three of six slots stayed empty as long as the runs lived that were there before it."""
    pause = Pause()
    pause.begin("no output directory", living=3, at=Instant(0.0))
    at = pause.until

    assert 4 == pause.room(living=3, at=at), "one more is tried with them"
    rooms = []
    for claimed in range(4, 7):
        pause.started(claimed=claimed, slots=6)
        rooms.append(pause.room(living=claimed, at=at))

    assert [5, 6, math.inf] == rooms


def test_runs_beyond_the_hosts_capacity_are_tried_at_growing_intervals() -> None:
    pause, at = Pause(), Instant(0.0)
    pause.begin("no descriptors", living=2, at=at)
    at = pause.until
    pause.started(claimed=1, slots=10)

    waits = []
    for _ in range(8):
        at = max(at, pause.next_trial_at)
        assert 3 == pause.room(living=2, at=at)
        assert pause.begin("no descriptors", living=2, at=at) is None, "those that live go on"
        waits.append(pause.next_trial_at - at)
        assert 2 == pause.room(living=2, at=at)

    assert [1, 2, 4, 8, 16, 32, 60, 60] == waits


@pytest.mark.parametrize("bears", [1, 3, 10])
@pytest.mark.parametrize("slots", [12, 200])
def test_a_host_that_bears_few_is_used_and_rarely_tried_for_more(bears: int, slots: int) -> None:
    """371 starts had failed in 120 s: each good one was followed by a burst of bad ones."""
    pause, rng = Pause(), random.Random(1)
    running: list[float] = []
    good = bad = 0
    for tick in range(12_000):
        at = Instant(tick / 100)
        running = [end for end in running if end > at]
        for _ in range(int(min(slots, pause.room(living=len(running), at=at))) - len(running)):
            if len(running) < bears:
                running.append(at + rng.uniform(0.02, 2))
                pause.started(claimed=len(running), slots=slots)
                good += 1
            else:
                pause.begin("no descriptors", living=len(running), at=at)
                bad += 1
                break

    assert bad <= 12
    assert good >= 0.8 * bears * 120 / 1.01
