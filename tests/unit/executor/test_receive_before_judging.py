"""Waiting messages are read before any time is judged, in virtual time (protocol 1.13)."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from dispatcher import wire
from dispatcher.executor.runs import SURVEY_INTERVAL
from dispatcher.executor.server import LINES_PER_TICK
from dispatcher.executor.system.kernel import ProcessStatus
from tests.unit.executor.world import FakeProcess, World

RUN = wire.RunUid("run")


@pytest.fixture
def world() -> Iterator[World]:
    """Sockets need short paths."""
    directory = Path(tempfile.mkdtemp(prefix="unread-"))
    world = World(directory)
    yield world
    for uid in list(world.executor.table.known):
        world.notices.forget(uid)
    shutil.rmtree(directory)


def limited(world: World, name: str, seconds: float, **settings: object) -> FakeProcess:
    return world.start(deadlines={name: world.kernel.now + seconds}, **settings)


def renewal(world: World, seconds: float) -> wire.Renew:
    return wire.Renew(deadlines={RUN: {"absence": world.kernel.now + seconds}})


@pytest.mark.parametrize("deadline", ["absence", "run_timeout"])
@pytest.mark.parametrize("code", [0, 3])
def test_a_run_that_exited_while_we_stood_still_has_its_code_whatever_passed(
    world: World, deadline: str, code: int
) -> None:
    leader = limited(world, deadline, 4)

    world.stand_still(8, lambda: world.kernel.dies(leader, ProcessStatus(exit_code=code)))

    exited = world.last(wire.Exited)
    assert (code, None) == (exited.exit.exit_code, exited.ended_by)
    assert [] == leader.signals


def test_a_run_whose_handle_nobody_could_open_has_its_code_too(world: World) -> None:
    world.kernel.short_of_handles = True
    leader = limited(world, "run_timeout", 0.5)
    world.kernel.dies(leader, ProcessStatus(exit_code=3))

    world.run_for(0.6)

    assert 0.6 < SURVEY_INTERVAL
    world.run_for(3 * SURVEY_INTERVAL)
    (exited,) = world.sent(wire.Exited)
    assert (3, None) == (exited.exit.exit_code, exited.ended_by)


@pytest.mark.parametrize("before", [0, LINES_PER_TICK + 8, 10 * LINES_PER_TICK])
def test_a_run_that_was_confirmed_while_we_stood_still_goes_on(world: World, before: int) -> None:
    """However many messages the daemon had sent before that."""
    leader = limited(world, "absence", 4)

    def confirm() -> None:
        world.server.inbox += [wire.Noted(uid=RUN, serial=n) for n in range(before)]
        world.server.inbox.append(renewal(world, 4))

    world.stand_still(6, confirm)
    world.run_for(3.9)
    assert [] == leader.signals
    world.run_for(0.2)

    assert "absence" == world.last(wire.Exited).ended_by


def test_a_daemon_that_waited_at_the_door_may_confirm_before_its_absence_is_judged(
    world: World,
) -> None:
    """It knows by the greeting what to confirm, and that came in the turn of the judgement."""
    leader = limited(world, "absence", 4)

    world.stand_still(6, lambda: setattr(world.server, "knocks", True))
    world.server.inbox.append(renewal(world, 4))
    world.run_for(3.9)
    assert [] == leader.signals
    world.run_for(0.2)

    assert "absence" == world.last(wire.Exited).ended_by


def test_daemons_that_come_again_and_again_and_confirm_nothing_save_nobody(world: World) -> None:
    leader = limited(world, "absence", 4)

    for _ in range(7):
        world.run_for(1)
        world.server.knocks = True

    assert SIGTERM == leader.signals[0][1]


def test_a_run_that_nobody_confirmed_is_ended_though_we_stood_still(world: World) -> None:
    leader = limited(world, "absence", 4)

    world.stand_still(6)

    assert SIGTERM == leader.signals[0][1]
    assert "absence" == world.last(wire.Exited).ended_by


@pytest.mark.parametrize("before", [0, 9])
def test_a_worker_that_requested_time_during_a_standstill_has_it(world: World, before: int) -> None:
    limits = {"watchdog": 60.0, "longest": world.kernel.now + 100}
    leader = limited(world, "run_timeout", 4, **limits)
    path = Path(world.directory, "notify", RUN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as worker:
        worker.setblocking(False)
        worker.connect(str(path))

        def request() -> None:
            for _ in range(before):  # as many as a socket of any host holds
                worker.send(b"WATCHDOG=1")
            worker.send(b"EXTEND_TIMEOUT_USEC=20000000")

        world.stand_still(6, request)
        world.run_for(19)
        assert [] == leader.signals
        world.run_for(4)

    assert "run_timeout" == world.last(wire.Exited).ended_by


def test_a_run_that_floods_its_socket_is_ended_at_its_time_all_the_same(world: World) -> None:
    leader = limited(world, "run_timeout", 4, watchdog=60.0)
    path = Path(world.directory, "notify", RUN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as worker:
        worker.setblocking(False)
        worker.connect(str(path))
        for _ in range(100):
            with suppress(OSError):  # it is full, or closed
                for _ in range(1000):
                    worker.send(b"WATCHDOG=1")
            world.run_for(0.05)

    assert SIGTERM == leader.signals[0][1]


def test_a_run_that_ended_within_its_grace_during_a_standstill_is_not_killed(world: World) -> None:
    world.spawner.facts = {"ignores": frozenset({SIGTERM})}
    leader = world.start(kill_grace=5.0)
    world.end()

    world.stand_still(9, lambda: world.kernel.dies(leader, ProcessStatus(exit_code=7)))

    assert 7 == world.last(wire.Exited).exit.exit_code
    assert SIGKILL not in [signum for _, signum in leader.signals]
    assert "run.escalated" not in world.names()


def test_an_executor_that_stood_still_accepts_a_waiting_daemon_before_it_would_exit() -> None:
    directory = Path(tempfile.mkdtemp(prefix="unread-"))
    world = World(directory, embedded=True, greeted=False)

    world.stand_still(60, lambda: setattr(world.server, "knocks", True))

    assert world.stays
    assert [1] == [hello.epoch for hello in world.sent(wire.Hello)]
    shutil.rmtree(directory)


def test_a_dead_leader_that_a_tracer_holds_is_looked_at_again_after_a_pause(world: World) -> None:
    leader = world.start()
    leader.held = True
    world.kernel.dies(leader, ProcessStatus(exit_code=3))
    before = world.kernel.looks

    world.run_for(10)
    assert world.kernel.looks - before < 100
    assert [] == world.sent(wire.Exited)
    leader.held = False
    world.run_for(SURVEY_INTERVAL)

    assert 3 == world.last(wire.Exited).exit.exit_code


def test_an_answer_follows_everything_known_at_its_request(world: World) -> None:
    world.start("silent", watchdog=60.0)
    leader = world.start("done")
    path = Path(world.directory, "notify", "silent")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as worker:
        worker.sendto(b"WATCHDOG=1", str(path))
        world.run_for(0)  # reported, and not acknowledged
        worker.sendto(b"WATCHDOG=1", str(path))
        world.kernel.dies(leader)
        world.server.sent.clear()

        world.deliver(wire.Ping(sequence=5))

    assert wire.Pong(sequence=5) == world.server.sent[-1]
    assert {wire.Started, wire.Exited, wire.Notice} >= {type(m) for m in world.server.sent[:-1]}
    assert 2 == world.last(wire.Notice).serial
    assert "done" == world.last(wire.Exited).uid


def test_an_answer_follows_the_exit_that_no_handle_reports(world: World) -> None:
    world.kernel.short_of_handles = True
    leader = world.start()
    world.kernel.dies(leader)

    world.deliver(wire.Ping(sequence=5))

    assert [wire.Exited, wire.Pong] == [type(message) for message in world.server.sent[-2:]]
