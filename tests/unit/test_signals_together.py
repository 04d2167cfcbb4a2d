"""Signals that arrive in one turn of the daemon's loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from dispatcher.config.reload import Reloaded
from dispatcher.daemon.commands import STOP_SIGNALS, Commands
from dispatcher.errors import ConfigError
from dispatcher.host.signals import caught
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.times import Instant
from tests.simulation import World


def commands_of(world: World, how: Stop) -> Commands:
    def reconfigure() -> Reloaded:
        raise ConfigError("the file is missing")

    return Commands(world.supervisor, on_stop=how, reconfigure=reconfigure)


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
    with caught(STOP_SIGNALS) as signals:
        commands = commands_of(world, how)
        for signum in together:
            os.kill(os.getpid(), signum)

        commands.obey_signals(signals.arrived(), at=world.at())

        assert how is stopping(world)


def test_a_second_signal_hurries_a_drain_in_a_later_turn() -> None:
    world = World()
    with caught(STOP_SIGNALS) as signals:
        commands = commands_of(world, Stop.DRAIN)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            commands.obey_signals(signals.arrived(), at=world.at())

        assert Stop.HURRY is stopping(world)


def test_to_leave_is_never_hurried() -> None:
    world = World()

    for _ in range(2):
        world.supervisor.stop(Stop.LEAVE, at=Instant(1.0))

    assert Stop.LEAVE is stopping(world)


def stopping(world: World) -> Any:
    supervisor: Supervisor = world.supervisor
    return supervisor.report(at=world.at()).stopping
