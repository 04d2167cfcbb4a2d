"""Who wakes a sleeping daemon: each change by a client that gives it work, and nothing else."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import bulk
from dispatcher.client import Client
from dispatcher.config.config import Config, load
from dispatcher.control import ControlBell
from dispatcher.host import sockets
from dispatcher.model import Liveness, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.bell import Bell
from dispatcher.supervisor.turn import Request
from dispatcher.words import Beat, Note
from tests.simulation import SETTINGS, World

fits: type[Bell] = ControlBell

TASK = NewTask(command=("true",), max_attempts=1, lease_ttl_ms=60_000)


class SleepingDaemon:
    """A control socket that nobody serves: what wakes the daemon waits there."""

    def __init__(self, config: Config) -> None:
        self.listener = sockets.listen(str(config.control_socket), backlog=16)

    def wakes(self) -> int:
        """Return how many messages woke it since the last call."""
        messages = []
        with suppress(BlockingIOError):
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    messages.append(connection.recv(100))
        assert set(messages) <= {b'{"op":"wake"}\n'}
        return len(messages)


@pytest.fixture
def config() -> Iterator[Config]:
    with TemporaryDirectory() as short:  # a socket's path is short
        file = Path(short) / "dispatcher.toml"
        file.write_text(f'[node]\nstate_dir = "{short}/state"\nruntime_dir = "{short}"\n', "utf-8")
        yield load(str(file), {})


@pytest.fixture
def client(config: Config) -> Iterator[Client]:
    with Client(config) as client:
        yield client


@pytest.fixture
def daemon(config: Config, client: Client) -> Iterator[SleepingDaemon]:
    daemon = SleepingDaemon(config)
    with closing(daemon.listener):
        yield daemon


def test_each_change_that_gives_a_daemon_work_wakes_it_and_no_other_does(
    client: Client, daemon: SleepingDaemon
) -> None:
    def woken(change: Callable[..., object], *args: Any, **kwargs: Any) -> int:
        change(*args, **kwargs)
        return daemon.wakes()

    task = client.submit(TASK).task_id
    assert 1 == daemon.wakes()
    assert 1 == woken(client.submit_many, [TASK, TASK])
    assert 1 == woken(client.hold, task, "wait")
    assert 1 == woken(client.release, task)
    assert 1 == woken(client.edit, task, priority=5)
    assert 0 == woken(client.pause, "default")
    assert 1 == woken(client.resume, "default")
    assert 0 == woken(client.resume, "default")
    assert 1 == woken(client.cancel, task)
    assert 0 == woken(client.cancel, task)
    assert 1 == woken(client.retry, task)

    assert 0 == woken(client.claim, task_id=task)
    assert 0 == woken(client.heartbeat, task, note="half")
    assert 1 == woken(client.fail, task, "no")
    claim = client.claim()
    assert claim is not None
    assert 1 == woken(client.give_back, claim, "not mine")
    assert 0 == woken(client.prune, older_than_ms=0)
    assert 0 == woken(client.tasks)


def test_many_tasks_of_one_verb_wake_it_once_a_transaction(
    client: Client, daemon: SleepingDaemon
) -> None:
    ids = [one.task_id for one in client.submit_many([TASK] * 20)]
    assert 1 == daemon.wakes()

    client.request_each(ids, "cancel")

    assert 1 == daemon.wakes()


def test_a_bulk_submit_wakes_it_for_its_first_tasks_and_once_for_each_part(
    client: Client, daemon: SleepingDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PART_TASKS", 3)
    woken: list[tuple[int, int]] = []

    def report(done: int, total: int | None = None) -> None:
        woken.append((done if total is not None else 0, daemon.wakes()))

    client.submit_many([TASK] * 9, report=report)

    assert [(0, 0)] * 3 + [(3, 1), (6, 1), (9, 1)] == woken


def test_no_missing_full_or_closed_socket_fails_a_change(client: Client, config: Config) -> None:
    client.submit(TASK)
    with ExitStack() as stack:
        listener = stack.enter_context(sockets.listen(str(config.control_socket), backlog=0))
        with suppress(BlockingIOError):
            while True:
                other = stack.enter_context(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(str(config.control_socket))
        client.submit(TASK)
        listener.close()
        client.submit(TASK)

    assert 3 == len(client.tasks())


# In virtual time ------------------------------------------------------------------------------

ASLEEP = replace(SETTINGS, poll=3_600.0, reap_interval=3_600.0)


def test_a_daemon_that_its_bell_wakes_starts_a_task_at_the_instant_of_the_submit() -> None:
    world = World(settings=ASLEEP).start()
    world.run_for(1)
    world.bell.on_ring = world.settle_down

    task = world.submit("true")

    assert TaskState.RUNNING is world.state(task)
    assert world.deadline > world.at()


def test_the_first_tasks_of_a_bulk_submit_start_before_the_last_are_there() -> None:
    world = World(settings=ASLEEP).start()
    world.run_for(1)
    world.bell.on_ring = world.settle_down
    with world.store.transaction() as now:
        for part in range(2):
            world.store.stage("bulk", part, [TASK] * 2, now=now)
        world.store.accept("bulk", now=now)
    assert 0 == world.bell.rings

    with world.store.transaction() as now:
        world.store.admit("bulk", now=now)

    with world.store.snapshot():
        assert 2 == world.store.coming()
    assert [TaskState.RUNNING] * 2 == [world.state(task) for task in (1, 2)]


def test_an_hour_of_leases_beats_and_notes_rings_nothing() -> None:
    world = World()
    world.submit("alive")
    task = world.submit("beats", liveness=Liveness.WORKER, lease_ttl_ms=30_000)
    world.start()
    lock = world.executor.starts[-1].env["DISPATCHER_CLAIM_LOCK"]
    answers: list[object] = []
    world.bell.rings = 0

    for number in range(360):
        world.run_for(10)
        beat = Beat(task_id=task, lock=lock, progress=number / 360)
        note = Note(task_id=task, lock=lock, note=f"step {number}")
        for message in (beat, note):
            world.tick(Request(message, lambda answer, _: answers.append(answer)))

    assert TaskState.RUNNING is world.state(task)
    assert 720 == len(answers)
    assert 0 == world.bell.rings
