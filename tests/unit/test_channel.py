"""A listening socket's peers, with clocks that the test sets: turns, limits, and being dropped."""

import errno
import json
import os
import resource
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dispatcher.daemon import channel
from dispatcher.daemon.channel import Channel, Reply
from dispatcher.daemon.peer import FIRST_LINE, UNREAD
from dispatcher.daemon.worker_channel import (
    GROUPING,
    KEPT_DESCRIPTORS,
    NOT_ALLOWED,
    WorkerRequests,
    connections,
)
from dispatcher.host import marks, sockets
from dispatcher.times import Instant
from tests.eventually import eventually

NOW = Instant(1000.0)


class Server:
    """A channel and what it received; it answers when the test lets it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "sock"
        self.at = NOW
        self.received: list[tuple[bytes, Reply]] = []
        self.pids: list[int] = []
        self.sensible = True
        self.due: Instant | None = None
        self.capacity = channel.CONNECTIONS
        self.selector = selectors.DefaultSelector()
        self.channel = Channel(
            sockets.listen(str(self.path), backlog=128),
            self.receive,
            selector=self.selector,
            only_uids=frozenset({os.geteuid()}),
            refusal=NOT_ALLOWED,
            capacity=lambda: self.capacity,
        )

    def receive(self, line: bytes, reply: Reply, pid: int) -> bool:
        self.received.append((line, reply))
        self.pids.append(pid)
        return self.sensible

    def turn(self) -> bool:
        """Take a turn of the loop; return whether all that was sent before it was read."""
        for key, mask in self.selector.select(0.01):
            key.data(self.at, mask)
        behind = self.channel.check_backlog() or self.channel.is_short
        self.due = self.channel.run_due(at=self.at)
        return not behind

    def receives(self, count: int) -> list[bytes]:
        def probe() -> None:
            self.turn()
            assert count <= len(self.received)

        eventually(probe)
        return [line for line, _ in self.received]

    def answer(self, number: int) -> None:
        self.received[number][1]({"ok": True})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    server = Server(Path())
    yield server
    server.channel.close()
    server.selector.close()


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[], socket.socket]]:
    with ExitStack() as stack:

        def connected() -> socket.socket:
            stream = stack.enter_context(socket.socket(socket.AF_UNIX))
            stream.settimeout(2)
            stream.connect(str(server.path))
            server.turn()
            return stream

        yield connected


Connect = Callable[[], socket.socket]


def is_dropped(stream: socket.socket) -> bool:
    try:
        return stream.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_one_line_of_each_peer_is_read_until_it_was_answered(
    server: Server, connect: Connect
) -> None:
    flood, other = connect(), connect()
    flood.sendall(b"1\n2\n3\n")
    server.receives(1)
    other.sendall(b"a\n")

    assert [b"1", b"a"] == server.receives(2)
    server.turn()
    assert 2 == len(server.received)
    server.answer(0)
    server.channel.run_due(at=server.at)

    assert [b"1", b"a", b"2"] == [line for line, _ in server.received]


def test_unread_lines_stay_in_the_senders_socket(server: Server, connect: Connect) -> None:
    stream = connect()
    stream.setblocking(False)
    sent = 0
    for _ in range(100):
        try:
            sent += stream.send(b"x" * 1000 + b"\n")
        except BlockingIOError:
            server.turn()

    assert sent < 2**20
    assert [b"x" * 1000] == server.receives(1)


def test_half_a_line_gets_five_seconds_and_no_more(server: Server, connect: Connect) -> None:
    stream = connect()
    stream.sendall(b"half")
    server.turn()
    assert NOW + FIRST_LINE == server.due

    server.at = Instant(NOW + FIRST_LINE)
    server.turn()

    assert is_dropped(stream)
    assert server.due is None


def test_junk_alone_proves_nothing(server: Server, connect: Connect) -> None:
    server.sensible = False
    stream = connect()
    stream.sendall(b"junk\n")
    server.receives(1)
    server.answer(0)
    assert b"ok" in stream.recv(100)

    server.at = Instant(NOW + FIRST_LINE)
    server.turn()

    assert is_dropped(stream)


def test_a_line_too_long_is_cut_off(server: Server, connect: Connect) -> None:
    stream = connect()
    stream.setblocking(False)

    def cut_off() -> None:
        try:
            stream.send(b"x" * 50_000)
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            return
        server.turn()
        raise AssertionError

    eventually(cut_off)
    assert [] == server.received


def test_the_end_of_a_line_counts(server: Server, connect: Connect) -> None:
    longest, longer = connect(), connect()
    for stream, size in ((longest, 65_535), (longer, 65_536)):
        stream.sendall(b"x" * size + b"\n")

    assert [b"x" * 65_535] == server.receives(1)
    for _ in range(4):
        server.turn()
    assert "invalid" == json.loads(longer.recv(4096))["error"]
    assert 1 == len(server.received)


@pytest.mark.parametrize("end", [b"", b"\n", b"\n{}\n"])
def test_the_sender_of_a_line_too_long_is_answered_before_it_is_cut_off(
    server: Server, connect: Connect, end: bytes
) -> None:
    stream = connect()
    stream.sendall(b"x" * 70_001 + end)

    for _ in range(4):
        server.turn()

    answer = json.loads(stream.recv(4096))
    assert (False, "invalid") == (answer["ok"], answer["error"])
    assert "longer than 65536 bytes with its end; write what is long to a file" in answer["message"]
    assert is_dropped(stream)
    assert [] == server.received


def test_a_peer_that_does_not_read_its_answers_is_dropped(server: Server, connect: Connect) -> None:
    stream = connect()
    stream.sendall(b"1\n")
    server.receives(1)
    server.received[0][1]({"long": "x" * 10**6})
    server.turn()

    server.at = Instant(NOW + UNREAD)
    server.turn()

    while stream.recv(10**6):
        pass
    assert server.due is None


def test_a_peer_that_closes_its_half_is_answered_first(server: Server, connect: Connect) -> None:
    stream = connect()
    stream.sendall(b"1\n2\n")
    stream.shutdown(socket.SHUT_WR)
    server.receives(1)
    server.turn()
    server.answer(0)
    server.receives(2)
    server.turn()
    server.answer(1)
    server.turn()

    assert b'{"ok":true}\n' * 2 == stream.recv(100)
    assert is_dropped(stream)


def test_a_full_channel_closes_the_idlest_and_keeps_those_that_speak(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.capacity = 10
    monkeypatch.setattr(channel, "UNPROVED_SEATS", 2)
    speaking = connect()
    speaking.sendall(b"1\n")
    server.receives(1)
    idle = []
    for _ in range(20):
        server.at = Instant(server.at + 0.001)
        idle.append(connect())

    speaking.sendall(b"2\n")
    server.answer(0)
    server.receives(2)

    assert [True] * 11 == [is_dropped(stream) for stream in idle[:11]]
    idle[-1].sendall(b"3\n")
    assert b"3" in server.receives(3)


@pytest.fixture
def run_of_peers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the mark of those that connect from now on, alone in a list."""
    marks_of = [0]
    monkeypatch.setattr(marks, "read_mark", lambda _: marks_of[0])
    return marks_of


def test_r84_a_run_that_floods_a_full_channel_loses_its_own_connections_alone(
    server: Server, connect: Connect, run_of_peers: list[int]
) -> None:
    """The others' are idler than all of its own."""
    server.capacity = 10
    quiet = []
    for run_of_peers[0] in (1, 2, 3):
        quiet.append(connect())
        quiet[-1].sendall(b"1\n")
    server.receives(3)
    run_of_peers[0] = 4
    flood = []
    for number in range(20):
        server.at = Instant(server.at + 0.001)
        flood.append(connect())
        flood[-1].sendall(b"f\n")
        server.receives(4 + number)
    for number in range(3):
        server.answer(number)

    assert [b'{"ok":true}\n'] * 3 == [stream.recv(100) for stream in quiet]
    assert [True] * 13 == [is_dropped(stream) for stream in flood[:13]]
    run_of_peers[0] = 5
    newcomer = connect()
    newcomer.sendall(b"5\n")
    assert b"5" in server.receives(24)
    assert is_dropped(flood[13])


def test_a_channel_that_holds_fewer_than_before_closes_the_idlest(
    server: Server, connect: Connect
) -> None:
    idle = []
    for _ in range(5):
        server.at = Instant(server.at + 0.001)
        idle.append(connect())
    server.capacity = 3
    server.at = Instant(server.at + 0.001)
    connect()

    assert [True] * 3 == [is_dropped(stream) for stream in idle[:3]]


@pytest.mark.parametrize("mark", [0, None])
def test_peers_of_no_run_and_hidden_ones_share_their_seats(
    server: Server, connect: Connect, run_of_peers: list[int | None], mark: int | None
) -> None:
    server.capacity, run_of_peers[0] = 2, mark
    first, _, _ = connect(), connect(), connect()

    assert is_dropped(first)


def test_a_peer_that_is_gone_or_in_another_namespace_is_of_no_run(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def gone(pid: int) -> int:
        asked.append(pid)
        raise ProcessLookupError

    monkeypatch.setattr(marks, "read_mark", gone)
    connect().sendall(b"1\n")
    monkeypatch.setattr(sockets, "credentials", lambda _: (0, os.geteuid()))
    connect().sendall(b"2\n")

    assert [b"1", b"2"] == server.receives(2)
    assert [os.getpid()] == asked, "pid 0 would be ourselves"


@pytest.mark.parametrize(
    ("slots", "files", "most"),
    [
        (1, 1024, 256),
        (128, 1024, 256),
        (400, 1024, 800),
        (500, 1024, 1024 - KEPT_DESCRIPTORS),
        (500, 65536, 1000),
        (5000, resource.RLIM_INFINITY, 10_000),
        (500, 100, 256),
    ],
)
def test_each_slot_has_two_connections_as_far_as_the_limit_of_files_allows(
    slots: int, files: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))

    assert most == connections(slots)


# What workers send ---------------------------------------------------------------------------


def line(**words: object) -> bytes:
    return json.dumps({"op": "heartbeat", "task_id": 1, "lock": "x", **words}).encode()


def test_a_lone_beat_waits_for_nothing_and_those_that_follow_share_a_tick() -> None:
    requests = WorkerRequests()
    assert requests.due(shortest=60) is None
    requests.add(line(), print)
    due = requests.due(shortest=60)
    assert due is not None
    assert due < NOW

    assert 1 == len(requests.take(at=NOW))
    for _ in range(100):
        requests.add(line(), print)

    assert NOW + GROUPING == requests.due(shortest=60)
    assert 100 == len(requests.take(at=Instant(NOW + GROUPING)))
    assert requests.due(shortest=60) is None


@pytest.mark.parametrize("ttl", [0.2, 0.4, 1.0, 900.0])
def test_no_beat_waits_longer_than_a_quarter_second_or_an_eighth_of_its_lease(ttl: float) -> None:
    requests = WorkerRequests()
    requests.add(line(), print)
    requests.take(at=NOW)
    requests.add(line(), print)

    due = requests.due(shortest=ttl)

    assert due is not None
    assert due - NOW <= min(0.25, ttl / 8) + 1e-9


def test_invalid_requests_are_answered_together_with_the_others() -> None:
    requests, answers = WorkerRequests(), []
    assert not requests.add(os.urandom(8), answers.append)
    assert not requests.add(b"", answers.append)
    assert requests.add(line(), answers.append)
    assert [] == answers

    assert 1 == len(requests.take(at=NOW))

    assert ["invalid", "invalid"] == [answer["error"] for answer in answers]


def test_another_user_is_refused_and_closed_unheard_and_its_uid_and_pid_are_logged(
    server: Server, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = os.geteuid() + 1
    monkeypatch.setattr(sockets, "credentials", lambda _: (4711, stranger))

    with capture_logs() as logs:
        stream = connect()
        server.turn()

    assert NOT_ALLOWED == stream.recv(1000)
    assert [("peer.refused", stranger, 4711)] == [
        (event["event"], event["peer_uid"], event["peer_pid"]) for event in logs
    ]
    assert [] == server.received


def test_the_sender_of_a_line_is_known_by_its_pid(
    server: Server, connect: Callable[[], socket.socket]
) -> None:
    connect().sendall(line() + b"\n")

    server.receives(1)

    assert [os.getpid()] == server.pids


def test_a_request_carries_the_pid_of_its_sender() -> None:
    requests = WorkerRequests()
    requests.add(line(), print, 4711)

    assert [4711] == [request.pid for request in requests.take(at=NOW)]


def knock(server: Server, stack: ExitStack, count: int, line: bytes = b"beat\n") -> None:
    """Let so many connect and speak, while nobody looks."""
    for _ in range(count):
        stream = stack.enter_context(socket.socket(socket.AF_UNIX))
        stream.connect(str(server.path))
        stream.sendall(line)


def test_every_waiting_connection_is_read_before_all_is_read(server: Server) -> None:
    with ExitStack() as stack:
        knock(server, stack, 3 * channel.ACCEPTS + 5)

        turns = [server.turn()]
        while not turns[-1]:
            turns.append(server.turn())

        assert 3 * channel.ACCEPTS + 5 == len(server.received)
        assert 4 < len(turns) < 10


def test_every_line_of_a_peer_is_read_before_all_is_read(server: Server) -> None:
    with ExitStack() as stack:
        knock(server, stack, 1, b"one\ntwo\nthree\n")

        answered = 0
        while not server.turn():
            while answered < len(server.received):
                server.answer(answered)
                answered += 1

        assert [b"one", b"two", b"three"] == [line for line, _ in server.received]


def test_a_peer_that_does_not_read_its_answers_delays_nobody(server: Server) -> None:
    with ExitStack() as stack:
        knock(server, stack, 1, b"one\ntwo\n")
        server.receives(1)
        server.received[0][1]({"ok": "x" * 10_000_000})

        assert server.turn()
        assert [b"one"] == [line for line, _ in server.received]


def test_a_flood_of_connections_stops_nobodys_clock(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that waited when it began has been read by then."""
    monkeypatch.setattr(channel, "MOST_WAITING", 100)
    with ExitStack() as stack:
        knock(server, stack, 1)
        turns = 0
        while not server.turn():
            knock(server, stack, 10)
            turns += 1

        assert 100 / channel.ACCEPTS <= turns < 20
        assert b"beat" == server.received[0][0]


def test_a_connection_that_cannot_be_accepted_is_not_read_and_the_loop_waits(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.turn()
    with ExitStack() as stack:
        knock(server, stack, 1)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            assert not server.turn()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert not server.turn()
        assert server.due == server.at + channel.SHORTAGE_DELAY
        server.at = server.due

        server.turn()
        assert not server.turn()
        assert [b"beat"] == server.receives(1)
        assert server.turn()


def test_a_change_of_socket_keeps_connected_and_waiting_peers(
    server: Server, connect: Connect
) -> None:
    there = connect()
    with socket.socket(socket.AF_UNIX) as waits:
        waits.connect(str(server.path))
        waits.sendall(b"waited\n")

        server.channel.listen_at(sockets.listen(str(server.path), backlog=128), at=server.at)
        there.sendall(b"connected\n")
        connect().sendall(b"new\n")

        assert {b"waited", b"connected", b"new"} == set(server.receives(3))


def test_a_change_of_socket_reads_all_that_waited_before_however_many(server: Server) -> None:
    with ExitStack() as stack:
        knock(server, stack, 2 * channel.ACCEPTS)
        server.channel.listen_at(sockets.listen(str(server.path), backlog=128), at=server.at)
        knock(server, stack, 1)
        server.channel.listen_at(sockets.listen(str(server.path), backlog=128), at=server.at)

        while not server.turn():
            pass

        assert 2 * channel.ACCEPTS + 1 == len(server.received)
        server.turn()
        assert server.due != server.at, "the former socket is closed"


def test_a_channel_short_of_descriptors_reads_at_another_socket_after_the_shortage(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(_: socket.socket) -> None:
        raise OSError(errno.EMFILE, "too many")

    with socket.socket(socket.AF_UNIX) as late:
        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "accept", short)
            connect().sendall(b"waited\n")
            assert server.channel.is_short
            server.channel.listen_at(sockets.listen(str(server.path), backlog=128), at=server.at)
        late.connect(str(server.path))
        late.sendall(b"late\n")
        server.at = Instant(server.at + channel.SHORTAGE_DELAY)

        assert {b"late", b"waited"} == set(server.receives(2))
