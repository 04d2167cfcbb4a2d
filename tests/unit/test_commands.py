"""Commands of operators: signals that arrive in one turn, and requests on the control socket."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.config.reload import Reloaded
from dispatcher.daemon.commands import STOP_SIGNALS, Commands
from dispatcher.errors import ConfigError
from dispatcher.host.signals import caught
from dispatcher.model import TaskState
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.times import Instant
from tests.simulation import SETTINGS, World


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


def test_a_second_signal_ends_the_runs_of_a_drain_in_a_later_turn() -> None:
    world = World()
    with caught(STOP_SIGNALS) as signals:
        commands = commands_of(world, Stop.DRAIN)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            commands.obey_signals(signals.arrived(), at=world.at())

        assert Stop.AT_ONCE is stopping(world)


def test_a_second_request_to_leave_ends_no_run() -> None:
    world = World()

    for _ in range(2):
        world.supervisor.stop(Stop.LEAVE, at=Instant(1.0))

    assert Stop.LEAVE is stopping(world)


# Requests of `dispatcher stop` ----------------------------------------------------------------


def request(commands: Commands, line: bytes) -> Any:
    answers: list[object] = []
    commands.handle_request(line, answers.append, 1)
    (answer,) = answers
    return answer


def test_a_request_to_stop_does_what_is_configured_or_what_it_names() -> None:
    for line, how in {
        b'{"op": "stop"}': Stop.DRAIN,
        b'{"op": "stop", "how": null}': Stop.DRAIN,
        b'{"op": "stop", "how": "leave"}': Stop.LEAVE,
        b'{"op": "stop", "how": "at_once"}': Stop.AT_ONCE,
    }.items():
        world = World()
        assert {"ok": True} == request(commands_of(world, Stop.DRAIN), line)
        assert how is stopping(world)


def test_a_repeated_stop_ends_no_run_and_a_stop_at_once_does() -> None:
    world = World()
    commands = commands_of(world, Stop.DRAIN)
    for how in ("null", "null", '"leave"', '"drain"'):
        request(commands, f'{{"op": "stop", "how": {how}}}'.encode())
        assert Stop.DRAIN is stopping(world)

    request(commands, b'{"op": "stop", "how": "at_once"}')

    assert Stop.AT_ONCE is stopping(world)


def test_a_request_to_stop_in_an_unknown_way_changes_nothing() -> None:
    world = World()

    answer = request(commands_of(world, Stop.DRAIN), b'{"op": "stop", "how": "politely"}')

    assert (False, "invalid") == (answer["ok"], answer["error"])
    assert stopping(world) is None


def test_the_report_counts_down_to_the_end_of_a_drain() -> None:
    world = World(settings=replace(SETTINGS, drain_timeout=60.0)).start()
    assert world.supervisor.report(at=world.at()).ends_runs_in_s is None

    world.supervisor.stop(Stop.DRAIN, at=world.at())
    world.elapsed += 45

    assert 15.0 == world.supervisor.report(at=world.at()).ends_runs_in_s
    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    assert world.supervisor.report(at=world.at()).ends_runs_in_s is None


def test_a_reload_that_means_another_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, link, other = (tmp_path / name for name in ("own.toml", "link.toml", "other.toml"))
    own.touch()
    link.symlink_to(own)
    commands = commands_of(World(), Stop.DRAIN)
    commands.file = link

    refused = {"ok": False, "error": "other_file", "file": str(link)}
    assert refused == request(commands, b'{"op": "reload", "file": "%s"}' % bytes(other))
    for line in (b'{"op": "reload", "file": "%s"}' % bytes(own), b'{"op": "reload"}'):
        assert "config_refused" == request(commands, line)["error"]  # as it is read

    monkeypatch.setattr("dispatcher.config.config.SYSTEM_FILE", tmp_path / "none")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("DISPATCHER_CONFIG", raising=False)
    commands.file = None
    refused = {"ok": False, "error": "other_file", "file": None}
    assert refused == request(commands, b'{"op": "reload", "file": "%s"}' % bytes(other))


def stopping(world: World) -> Any:
    supervisor: Supervisor = world.supervisor
    return supervisor.report(at=world.at()).stopping


def test_a_wake_up_makes_the_daemon_look_at_time_outs_long_before_its_next_poll() -> None:
    world = World(settings=replace(SETTINGS, slots=1, poll=3_600.0))
    world.submit("sleep")
    world.start()
    late = world.submit("late", queue_timeout_ms=1_000)

    assert commands_of(world, Stop.LEAVE).handle_request(b'{"op": "wake"}', lambda _: None, 1)
    world.settle_down()
    world.run_for(1.1)

    assert TaskState.FAILED is world.state(late)
