"""A peer that does not read, on real sockets with the clock in our hands."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from dispatcher import wire
from dispatcher.executor.server import Server, too_long
from dispatcher.executor.system.kernel import Kernel
from dispatcher.times import Instant


class Here:
    """A server and a peer that has connected to it."""

    def __init__(self, directory: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self.kernel = Kernel()
        self.server = Server(str(directory), self.kernel, self.log)  # type: ignore[arg-type]
        self.server.open()
        self.peer = socket.socket(socket.AF_UNIX)
        self.peer_path = str(directory / "executor.sock")
        self.peer.connect(self.peer_path)
        assert self.server.accept(self.kernel.wait(1), Instant(0.0))

    def log(self, event: str, **facts: Any) -> None:
        self.events.append({"event": event, **facts})

    def send_too_much(self, at: float) -> None:
        for n in range(10):
            self.server.send(
                wire.StartFailed(
                    uid=wire.RunUid(str(n)), fault=wire.Fault.HOST, error="x" * 100_000
                )
            )
        self.server.flush(Instant(at))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    here = Here(tmp_path)
    yield here
    here.peer.close()
    here.server.close()
    here.kernel.close()


def test_a_peer_that_reads_nothing_for_ten_seconds_is_dropped(here: Here) -> None:
    here.send_too_much(at=100.0)

    here.server.flush(Instant(109.9))
    assert here.server.connected
    assert Instant(110.0) == here.server.due
    here.server.flush(Instant(110.0))

    assert not here.server.connected
    assert [{"event": "daemon.dropped", "reason": "it does not read"}] == here.events


def test_a_peer_that_reads_slowly_is_kept_and_gets_everything(here: Here) -> None:
    here.send_too_much(at=100.0)
    read = bytearray()
    at = 100.0
    while here.server.due < float("inf"):
        at += 9.0
        read += here.peer.recv(200_000)
        here.server.flush(Instant(at))
    here.peer.setblocking(False)
    while read.count(b"\n") < 10:
        read += here.peer.recv(200_000)

    assert here.server.connected
    assert [str(n) for n in range(10)] == [
        wire.decode_from_executor(line).uid
        for line in read.splitlines()  # type: ignore[union-attr]
    ]


def test_a_blocked_peer_wakes_nobody_until_it_reads(here: Here) -> None:
    here.send_too_much(at=100.0)

    assert [] == here.kernel.wait(0)
    here.peer.settimeout(0)
    with suppress(BlockingIOError):
        while here.peer.recv(1_000_000):
            pass

    assert [] != here.kernel.wait(1)
    here.server.flush(Instant(101.0))


def test_a_peer_that_vanishes_while_we_write_is_dropped(here: Here) -> None:
    here.peer.close()

    here.server.send(wire.Pong(sequence=1))
    here.server.flush(Instant(100.0))
    here.server.receive(here.kernel.wait(1))

    assert not here.server.connected


def test_the_messages_of_a_peer_that_left_are_read_to_their_end(here: Here) -> None:
    """130 starts of a daemon that left: 66 were thrown away at the first answer that failed."""
    here.peer.sendall(b"".join(wire.encode(wire.Ping(sequence=n)) + b"\n" for n in range(130)))
    here.peer.close()

    received: list[wire.ToExecutor] = []
    while here.server.connected:
        received += here.server.receive(here.kernel.wait(1))
        here.server.send(wire.Pong(sequence=len(received)))
        here.server.flush(Instant(100.0))

    assert [wire.Ping(sequence=n) for n in range(130)] == received

    here.peer = socket.socket(socket.AF_UNIX)
    here.peer.connect(here.peer_path)
    assert here.server.accept(here.kernel.wait(1), Instant(101.0))
    here.server.send(wire.Pong(sequence=7))
    here.server.flush(Instant(101.0))
    assert b"7" in here.peer.recv(1000), "the next one is spoken to again"


def test_a_peer_that_the_host_cannot_send_to_is_dropped_and_may_come_again(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed connected and mute: no descriptor could be passed with the greeting."""

    def refused(*_: object) -> int:
        raise OSError(errno.ETOOMANYREFS, "too many references")

    monkeypatch.setattr("dispatcher.executor.server.socket.send_fds", refused)
    here.server.send(wire.Pong(sequence=1))
    here.server.flush(Instant(100.0))

    assert not here.server.connected


def test_a_burst_is_read_in_portions(here: Here) -> None:
    """So that a thousand starts do not delay the endings of others."""
    here.peer.sendall(b"".join(wire.encode(wire.Ping(sequence=n)) + b"\n" for n in range(100)))

    portions = []
    while here.server.due == 0 or not portions:
        received = here.server.receive(here.kernel.wait(1))
        portions.append([message.sequence for message in received])  # type: ignore[union-attr]

        assert here.server.all_read == (99 in portions[-1])

    assert list(range(100)) == [number for portion in portions for number in portion]
    assert max(map(len, portions)) <= 32


def test_a_message_longer_than_one_read_is_not_all_read_after_it(here: Here) -> None:
    line = wire.encode(wire.Forget(uid=wire.RunUid("x" * 200_000))) + b"\n"
    here.peer.settimeout(5)
    assert here.peer.send(line) > 100_000

    received = [here.server.receive(here.kernel.wait(0)) or here.server.all_read for _ in range(5)]

    assert [False, True] == [received[0], received[-1]]


def test_the_queue_for_a_peer_that_does_not_read_is_bounded_by_its_runs(here: Here) -> None:
    here.send_too_much(at=100.0)
    sizes = []
    for number in range(3000):
        uid = wire.RunUid(str(number % 3))
        here.server.send(wire.Notice(uid=uid, serial=number, beat=True, until=1.0))
        here.server.send(wire.Changed(uid=uid, state=wire.RunState.ENDING, ended_by="absence"))
        here.server.send(wire.Pong(sequence=number))
        here.server.flush(Instant(101.0))
        sizes.append(len(here.server._outbox.encoded()))

    assert here.server.connected
    assert max(sizes) < 1000


def test_messages_without_a_peer_are_not_kept(here: Here) -> None:
    here.peer.close()
    here.server.receive(here.kernel.wait(1))

    for n in range(1000):
        here.server.send(wire.Pong(sequence=n))

    assert not here.server._outbox


def knock(path: str, stack: ExitStack) -> socket.socket:
    worker = stack.enter_context(socket.socket(socket.AF_UNIX))
    worker.connect(path)
    return worker


def test_a_worker_that_waits_while_the_door_is_made_again_is_accepted_by_the_next_daemon(
    here: Here,
) -> None:
    """Workers that waited were reset, and a beat that finds nobody ends a run."""
    here.peer.close()
    here.server.receive(here.kernel.wait(1))
    _, door = here.server.names
    with ExitStack() as stack:
        knocking = []
        for _ in range(2):
            knocking.append(knock(door.path, stack))
            Path(door.path).unlink()
            door.restore()

        here.peer = socket.socket(socket.AF_UNIX)
        here.peer.connect(here.peer_path)
        assert here.server.accept(here.kernel.wait(1), Instant(101.0))
        here.server.send(wire.Pong(sequence=7))
        here.server.flush(Instant(101.0))
        _, passed, _, _ = socket.recv_fds(here.peer, 1000, 8)
        listeners = [stack.enter_context(socket.socket(fileno=one)) for one in passed]

        assert os.fstat(door.socket.fileno()).st_ino == os.fstat(listeners[0].fileno()).st_ino
        for worker, listener in zip(knocking, listeners[1:], strict=True):
            connection, _ = listener.accept()
            connection.sendall(b"ok")
            assert b"ok" == worker.recv(10)
            connection.close()


def test_a_door_without_a_name_is_kept_only_while_somebody_waits_at_it(here: Here) -> None:
    _, door = here.server.names
    with ExitStack() as stack:
        for _ in range(wire.MAX_LISTENERS + 2):
            knock(door.path, stack)
            door.restore()
        assert wire.MAX_LISTENERS - 1 == len(here.server._earlier)

        for one in here.server._earlier:
            one.accept()[0].close()
        door.restore()

        assert [] == here.server._earlier


def test_a_socket_path_is_judged_by_its_bytes() -> None:
    assert too_long("/" + "x" * 106) is None
    assert too_long("/" + "ü" * 53) is None
    complaint = too_long("/" + "ü" * 54)
    assert complaint is not None
    assert "109 bytes" in complaint
    assert "runtime_dir" in complaint


def test_a_daemon_that_cannot_be_let_in_is_tried_again_and_the_loop_rests(here: Here) -> None:
    """Without a free descriptor a waiting connection would wake every wait."""
    here.peer.close()
    here.server.receive(here.kernel.wait(1))
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(here.peer_path)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            assert not here.server.accept(here.kernel.wait(1), Instant(50.0))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert [] == here.kernel.wait(0)
        assert Instant(50.5) == here.server.due

        assert not here.server.accept([], Instant(50.5))
        assert here.server.accept(here.kernel.wait(1), Instant(50.5))
    assert ["daemon.shut_out"] == [e["event"] for e in here.events if "shut" in e["event"]]


def test_a_daemon_is_let_in_by_the_new_socket_and_the_present_one_stays(here: Here) -> None:
    door, _ = here.server.names
    Path(door.path).unlink()
    door.restore()
    assert here.server.connected
    assert 0.0 == here.server.due
    here.server.accept(here.kernel.wait(0), Instant(1.0))
    assert here.server.connected

    with socket.socket(socket.AF_UNIX) as later:
        later.connect(here.peer_path)
        assert here.server.accept(here.kernel.wait(1), Instant(2.0))
        assert float("inf") == here.server.due


def test_the_workers_new_door_travels_with_the_next_message(here: Here) -> None:
    _, workers = here.server.names
    here.server.send(wire.Pong(sequence=1))
    here.server.flush(Instant(1.0))
    socket.recv_fds(here.peer, 1000, 4)
    Path(workers.path).unlink()

    workers.restore()
    here.server.send(wire.Door())
    here.server.flush(Instant(1.0))
    message, (passed,), _, _ = socket.recv_fds(here.peer, 1000, 4)

    assert wire.encode(wire.Door()) + b"\n" == message
    with socket.socket(fileno=passed) as listening, socket.socket(socket.AF_UNIX) as worker:
        worker.connect(workers.path)
        listening.accept()[0].close()


def test_a_door_that_was_never_opened_is_not_opened_by_being_made_again(tmp_path: Path) -> None:
    """An executor that still sweeps greets nobody."""
    kernel = Kernel()
    server = Server(str(tmp_path), kernel, lambda *_, **__: None)  # type: ignore[arg-type]
    door, _ = server.names
    Path(door.path).unlink()
    door.restore()
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(door.path)
        assert float("inf") == server.due
        assert [] == kernel.wait(0)
        server.open()
        assert server.accept(kernel.wait(1), Instant(1.0))
    server.close()
    kernel.close()
