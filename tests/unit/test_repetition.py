"""Repeated failures, in virtual time: how often each is tried, and how much is logged."""

import json
from io import StringIO
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.config.config import load
from dispatcher.errors import StoreUnavailable
from dispatcher.logs import logs
from dispatcher.logs.repeats import BURST
from dispatcher.model import TaskState
from tests.simulation import RETRY, SETTINGS, World
from tests.unit.test_supervisor import Unwell

MINUTE = 60.0


def starts(world: World, task: int) -> list[float]:
    """Return the instants at which a task was started, in seconds from the first."""
    claimed = [run.claimed_at for run in world.runs(task)]
    return [(moment - claimed[0]) / 1000 for moment in claimed]


def fail_for(world: World, tasks: list[int], seconds: float) -> None:
    """Let time pass while every run fails as soon as it was started."""
    end = world.elapsed + seconds
    while world.elapsed < end:
        for task in tasks:
            if world.state(task) is TaskState.RUNNING:
                world.gone(task, 1)
        world.run_for(0.5)


def test_r25_an_always_failing_command_is_started_ever_more_seldom_up_to_the_cap() -> None:
    """Each task's back-off bounds how often all are started: no other limit applies.

    Of n tasks that fail at once, no minute sees more than 4 n starts (their first one), and at the
    cap no half cap more than n.
    """
    slots, cap = 10, RETRY.backoff_max_ms / 1000
    world = World(settings=replace(SETTINGS, slots=slots)).start()
    tasks = [world.submit("false", max_attempts=1000) for _ in range(slots)]
    world.settle_down()
    fail_for(world, tasks, 20 * MINUTE)

    times = [starts(world, task) for task in tasks]
    least, bound = RETRY.backoff_min_ms / 1000, 0.0
    for moments in times:
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        for number, gap in enumerate(gaps):
            bound = min(cap, least * 2**number)
            assert bound / 2 <= gap <= bound + 1.0, (number, gap)
        assert cap == bound, "it came to the cap"
    everything = sorted(moment for moments in times for moment in moments)
    assert max(_within(everything, MINUTE)) <= 4 * slots
    late = [moment for moment in everything if moment > 5 * MINUTE]
    assert 0 < max(_within(late, cap / 2 - 1)) <= slots


def _within(moments: list[float], window: float) -> list[int]:
    return [sum(a <= b < a + window for b in moments) for a in moments]


def test_r26_twenty_simultaneous_timeouts_start_again_spread_over_their_back_off() -> None:
    world = World(settings=replace(SETTINGS, slots=20)).start()
    tasks = [world.submit("hangs", run_timeout_ms=5_000) for _ in range(20)]
    world.settle_down()
    world.run_for(5.1)
    for task in tasks:
        world.gone(task, None, signal=9)
    assert {"timed_out"} == {world.runs(task)[0].outcome for task in tasks}

    ended = world.now()
    world.run_for(11)
    again = sorted((world.runs(task)[1].claimed_at - ended) / 1000 for task in tasks)

    base = RETRY.backoff_min_ms / 1000
    assert base / 2 <= again[0] <= again[-1] <= base
    assert again[-1] - again[0] >= 0.8 * base / 2, "spread over the whole of what is random"
    assert max(_within(again, 0.5)) <= 6, "and not in heaps"


@pytest.fixture
def stream() -> StringIO:
    """The lines logged from here on, by a clock that the test must set."""
    return StringIO()


def set_up(world: World, stream: StringIO) -> None:
    config = load(None, {"STATE_DIRECTORY": "/v"})
    logs.set_up(config, stream=stream, strict=True, clock=world.at)


def events(stream: StringIO, name: str) -> list[dict[str, Any]]:
    lines = map(json.loads, stream.getvalue().splitlines())
    return [line for line in lines if line["event"] == name]


def test_r51_a_store_that_fails_a_thousand_times_costs_a_line_a_minute(stream: StringIO) -> None:
    world = World()
    set_up(world, stream)
    unwell = Unwell(world.store)
    world.store = unwell  # type: ignore[assignment]
    world.fresh_supervisor()
    world.start()

    began = world.elapsed
    for _ in range(1000):
        unwell.failures = [(StoreUnavailable("database disk image is malformed"), False)]
        world.supervisor.reconfigure(world.settings)  # so that this tick is not left out
        world.tick()
        world.run_for(1.0)
    minutes = (world.elapsed - began) / MINUTE

    for name in ("store.unavailable", "store.recovered"):
        lines = events(stream, name)
        assert BURST < len(lines) <= BURST + minutes + 1
        left_out = sum(line.get("left_out", 0) for line in lines)
        assert 1000 - MINUTE <= len(lines) + left_out <= 1000, "each was logged or counted"

    world.run_for(2 * MINUTE)
    logs.flush(world.at())
    assert {"store.unavailable", "store.recovered"} == {
        line["of"] for line in events(stream, "error.ceased")
    }


def test_r51_a_host_that_starts_nothing_is_logged_at_most_once_a_minute(stream: StringIO) -> None:
    world = World()
    set_up(world, stream)
    uid = wire.RunUid("")
    world.executor.refusal = wire.StartFailed(uid=uid, fault=wire.Fault.HOST, error="EMFILE")
    world.submit("true")
    world.start()
    world.run_for(120 * MINUTE)

    assert len(events(stream, "node.paused")) <= BURST + 120
    assert world.runs(1), "it was tried"
    assert 0 == world.task(1).attempts_used
