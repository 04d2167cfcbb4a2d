"""Strangers and floods at the worker socket, while two workers beat for their lives.

One beats over a connection of its own each time, as a shell script does, one over the same. Lease
1 s, a beat each 0.3 s: an abuse that disturbs them for a second ends them and fails the test.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from dispatcher.daemon import channel
from dispatcher.host.marks import why_unmarked
from tests.e2e.beating import beating
from tests.e2e.helpers import python, shell, stored
from tests.e2e.world import Daemon, World
from tests.eventually import PATIENCE, eventually

#: Bytes by which a daemon's memory may grow under abuse: far less than what it is sent.
GROWTH = 24 * 1024 * 1024

#: Longer than any host is slow: accepted beats show that a worker is read.
LEASE = {"liveness": "worker", "lease_ttl": "10m", "max_attempts": 1}

#: The number of the worker for which the tests speak.
MINE = 2


@dataclass
class Siege:
    """A daemon with two workers that beat, and one that leaves that to the test."""

    world: World
    daemon: Daemon
    workers: list[int]

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.daemon.pid)

    def line(self) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(PATIENCE)
        stream.connect(str(self.world.runtime_dir / "worker.sock"))
        return stream

    def lasting(self) -> Iterator[None]:
        """Go on until two beats of both workers were accepted: an abuse never lasts so long."""
        give_up_at = time.monotonic() + PATIENCE
        for _ in range(2):
            before = self._last_beats()
            while any(now == then for now, then in zip(self._last_beats(), before, strict=True)):
                assert time.monotonic() < give_up_at, (
                    "no beats of its workers are accepted meanwhile"
                )
                yield

    def _last_beats(self) -> list[int]:
        """Return when each worker's last beat was accepted, in the store's time."""
        query = "SELECT last_heartbeat_at FROM runs ORDER BY task_id LIMIT 2"
        return [at for (at,) in stored(self.world, query)]

    def beat_of(self, number: int, **changes: object) -> bytes:
        """Return the line with which one of the workers beats."""
        task_id = self.workers[number]
        ((lock,),) = stored(
            self.world, f"SELECT lock FROM runs WHERE task_id = {task_id} AND outcome IS NULL"
        )
        request = {"op": "heartbeat", "task_id": task_id, "lock": lock}
        return json.dumps({**request, **changes}).encode() + b"\n"


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory, bytecode: Path) -> Iterator[Siege]:
    world = World(tmp_path_factory.mktemp("siege"), bytecode)
    world.configure(logs={"level": "info"}, node={"slots": 8})
    try:
        with world.daemon() as daemon:
            daemon.expect("executor.connected")
            commands = (
                beating(),
                beating(keep=True),
                shell("until [ -e stop ]; do sleep 0.1; done"),
            )
            workers = [world.submit(*command, **LEASE) for command in commands]
            for worker in workers:
                world.until(worker, "running")
            yield Siege(world, daemon, workers)
            (world.directory / "stop").touch()
            for worker in workers:
                (run,) = world.until(worker, "succeeded")["runs"]
                assert "succeeded" == run["outcome"]
    finally:
        world.close()


@pytest.fixture
def siege(besieged: Siege) -> Iterator[Siege]:
    """See that an abuse changes nothing: workers, memory, descriptors."""
    memory = besieged.process.memory_info().rss
    descriptors = besieged.process.num_fds()
    yield besieged
    for worker in besieged.workers:
        task = besieged.world.show(worker)
        assert ("running", 1) == (task["state"], len(task["runs"])), (
            task["reason"],
            besieged.world.cli("logs", worker).stdout,
        )

    def calm() -> None:
        # The workers' own connections come and go.
        assert besieged.process.num_fds() <= descriptors + 2
        assert besieged.process.memory_info().rss < memory + GROWTH

    eventually(calm)


def answers(stream: socket.socket, lines: int) -> list[dict[str, Any]]:
    """Read so many answers; no other may be on its way."""
    received = b""
    while received.count(b"\n") < lines:
        chunk = stream.recv(4096)
        assert chunk, "the daemon hung up"
        received += chunk
    return [json.loads(line) for line in received.splitlines()]


def refused(stream: socket.socket, data: bytes) -> int:
    """Send until the daemon drops the line; return how many bytes it took."""
    sent = 0
    with suppress(OSError):
        while True:
            sent += stream.send(data)
    return sent


def test_junk_is_refused_as_invalid(siege: Siege) -> None:
    junk = [b"", b"{}", b"[1, 2", b"\0" * 100, os.urandom(99).replace(b"\n", b""), b'{"op":"x"}']
    junk.append(b'{"x":' + b"[" * 60_000)
    for _ in siege.lasting():
        with siege.line() as stream:
            stream.sendall(b"\n".join(junk) + b"\n")
            errors = {answer["error"] for answer in answers(stream, len(junk))}
        assert {"invalid"} == errors


def test_half_lines_keep_nobody_waiting(siege: Siege) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(siege.line()).sendall(b'{"op": "heartbeat", "task_id": 1, ')
        for _ in siege.lasting():
            with siege.line() as stream:
                stream.sendall(siege.beat_of(MINE))
                assert answers(stream, 1)[0]["ok"]


def _read(stream: socket.socket) -> bytes:
    stream.settimeout(PATIENCE)
    try:
        return stream.recv(1)
    except ConnectionError:
        return b""


def test_r84_a_gigabyte_without_a_newline_is_cut_off_early(siege: Siege) -> None:
    megabyte = b"x" * 2**20
    for _ in siege.lasting():
        with siege.line() as stream:
            taken = refused(stream, megabyte)
        assert taken < 2**20  # what a socket holds, and a line's worth


def test_five_hundred_idle_connections_keep_nobody_out(siege: Siege) -> None:
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(siege.line())
        for _ in siege.lasting():
            with siege.line() as stream:
                stream.sendall(siege.beat_of(MINE))
                assert answers(stream, 1)[0]["ok"]


def test_connections_that_were_proved_and_idle_keep_nobody_out(siege: Siege) -> None:
    with ExitStack() as stack:
        line = siege.beat_of(MINE)
        for _ in range(12):
            streams = [stack.enter_context(siege.line()) for _ in range(25)]
            for stream in streams:
                stream.sendall(line)
            assert all(answers(stream, 1)[0]["ok"] for stream in streams)
        for _ in siege.lasting():
            with siege.line() as stream:
                stream.sendall(siege.beat_of(MINE))
                assert answers(stream, 1)[0]["ok"]


_SPEAKS = """
import contextlib, json, os, pathlib, socket, time
request = {"op": "heartbeat", "lock": os.environ["DISPATCHER_CLAIM_LOCK"],
           "task_id": int(os.environ["DISPATCHER_TASK_ID"])}
def connected():
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(os.environ["DISPATCHER_SOCKET"])
    return stream
def beats(streams):
    answered = 0
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.sendall(json.dumps(request).encode() + b"\\n")
    for stream in streams:
        with contextlib.suppress(OSError):
            answered += b'"ok":true' in stream.recv(4096)
    return answered
def await_file(name):
    while not os.path.exists(name):
        time.sleep(0.05)
"""

_KEEPS_ONE = """
kept = [connected()]
assert beats(kept)
pathlib.Path("kept").touch()
await_file("flooded")
assert beats(kept), "its connection was closed"
"""

_FLOODS = f"""
await_file("kept")
streams = [connected() for _ in range({channel.CONNECTIONS + 50})]
assert 0 < beats(streams) < {channel.CONNECTIONS}
pathlib.Path("flooded").touch()
"""


@pytest.mark.skipif(why_unmarked() is not None, reason="runs have no marks here")
def test_r84_a_worker_that_floods_the_socket_closes_no_connection_of_another(siege: Siege) -> None:
    codes = (_KEEPS_ONE, _FLOODS)
    workers = [siege.world.submit(*python(_SPEAKS + code), **LEASE) for code in codes]

    for worker in workers:
        siege.world.until(worker, "succeeded")


@contextmanager
def flood(siege: Siege, line: bytes, *, connections: int) -> Iterator[None]:
    """Keep as many lines as sockets hold on their way to the daemon, reading every answer."""
    block = line * (60_000 // len(line))
    with ExitStack() as stack:
        streams = [stack.enter_context(siege.line()) for _ in range(connections)]
        for stream in streams:
            stream.setblocking(False)

        def pump() -> None:
            for stream in streams:
                with suppress(BlockingIOError):
                    stream.send(block)
                with suppress(BlockingIOError):
                    stream.recv(2**18)

        for _ in siege.lasting():
            pump()
        yield


@pytest.mark.parametrize(
    "words",
    [
        lambda siege: siege.beat_of(MINE),
        lambda siege: siege.beat_of(MINE, lock="0" * 32),
        lambda siege: siege.beat_of(MINE, op="fail", lock="0" * 32, reason="mine"),
        lambda siege: b"junk\n",
    ],
    ids=["valid", "not owner", "declarations", "junk"],
)
def test_r84_a_flood_starves_nobody(siege: Siege, words: Callable[[Siege], bytes]) -> None:
    """A beat meanwhile is answered, neither worker loses its lease, the log stays readable."""
    log = (siege.world.directory / "daemon-1.log").stat
    size, cpu = log().st_size, sum(siege.process.cpu_times()[:2])

    with flood(siege, words(siege), connections=50), siege.line() as stream:
        stream.sendall(siege.beat_of(MINE))
        assert answers(stream, 1)[0]["ok"]

    assert log().st_size - size < 200_000
    assert sum(siege.process.cpu_times()[:2]) - cpu < 5


def test_requests_of_a_peer_that_never_reads_its_answers_are_not_read_for_ever(
    siege: Siege,
) -> None:
    line = siege.beat_of(MINE)
    with siege.line() as stream:
        stream.setblocking(False)
        sent = 0
        for _ in siege.lasting():
            with suppress(BlockingIOError):
                sent += stream.send(line * 100)
            time.sleep(0.001)

        assert sent < 2**20


def test_a_beat_for_another_task_with_ones_own_lock_is_not_owner(siege: Siege) -> None:
    theirs = json.loads(siege.beat_of(0))["task_id"]
    with siege.line() as stream:
        stream.sendall(siege.beat_of(MINE, task_id=theirs))

        assert "not_owner" == answers(stream, 1)[0]["error"]
