"""Signals that arrive in one turn of the daemon's loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.daemon.loop import STOP_SIGNALS, Loop
from dispatcher.host.signals import Signals
from dispatcher.supervisor.supervisor import Stop, Supervisor
from dispatcher.times import Instant
from tests.simulation import World


def loop_of(world: World, signals: Signals, how: Stop) -> Loop:
    executor = cast("ExecutorClient", SimpleNamespace(call_before_close=lambda _: None))
    return Loop(world.supervisor, executor, signals=signals, on_stop=how)


@pytest.mark.parametrize(
    "together", [STOP_SIGNALS, (*STOP_SIGNALS, signal.SIGTERM), tuple(reversed(STOP_SIGNALS))]
)
@pytest.mark.parametrize("how", [Stop.LEAVE, Stop.DRAIN])
def test_signals_that_arrive_together_are_one_request(
    how: Stop, together: Sequence[signal.Signals]
) -> None:
    world = World()
    world.submit("sleep")
    world.start()
    with Signals(STOP_SIGNALS) as signals:
        loop = loop_of(world, signals, how)
        for signum in together:
            os.kill(os.getpid(), signum)

        loop._heed_signals(world.at(), 0)

        assert how is stopping(world)
        loop._selector.close()


def test_a_second_signal_hurries_a_drain_in_a_later_turn() -> None:
    world = World()
    with Signals(STOP_SIGNALS) as signals:
        loop = loop_of(world, signals, Stop.DRAIN)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            loop._heed_signals(world.at(), 0)

        assert Stop.HURRY is stopping(world)
        loop._selector.close()


def test_to_leave_is_never_hurried() -> None:
    world = World()

    for _ in range(2):
        world.supervisor.stop(Stop.LEAVE, at=Instant(1.0))

    assert Stop.LEAVE is stopping(world)


def stopping(world: World) -> Any:
    supervisor: Supervisor = world.supervisor
    return supervisor.report(at=world.at()).stopping
