"""The daemon's end of the executor's socket, against the other end in the test's hands."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import msgspec
import pytest
from structlog.testing import capture_logs

from dispatcher import wire
from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.errors import ConfigError
from dispatcher.executor_api import Connected, Disconnected
from dispatcher.times import Instant

UID = wire.RunUid("a" * 32)


def hello(**changes: object) -> wire.Hello:
    facts = {
        "version": wire.VERSION,
        "node_id": "me",
        "state_dir": "/ours",
        "boot_id": "b",
        "pid_namespace": "p",
        "store_id": "s",
        "epoch": 1,
        "pid": 42,
    }
    return wire.Hello(**{**facts, **changes})  # type: ignore[arg-type]


def accept(hello: wire.Hello, runs: Sequence[wire.RunReport]) -> None:
    """Work with every executor."""


class Executor:
    """The listening side: each connection's other end, and how often a launch was requested."""

    def __init__(self) -> None:
        self.up = True
        self.last_error: str | None = None
        self.ends: list[socket.socket] = []
        self.launches: list[float] = []

    def connect(self) -> socket.socket:
        if not self.up:
            raise FileNotFoundError
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.ends.append(theirs)
        return ours

    def ensure_running(self, *, at: Instant) -> None:
        self.launches.append(at)

    def send(self, *messages: wire.Message, raw: bytes = b"") -> None:
        lines = b"".join(msgspec.json.encode(message) + b"\n" for message in messages)
        self.ends[-1].sendall(lines + raw)

    def received(self) -> bytes:
        return self.ends[-1].recv(1 << 20)


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor()
    yield executor
    for end in executor.ends:
        end.close()


@pytest.fixture
def client(executor: Executor) -> Iterator[ExecutorClient]:
    client = ExecutorClient(
        executor.connect,
        node_id="me",
        state_dir="/ours",
        launcher=executor,
        check=accept,
    )
    yield client
    client.close()


def at(seconds: float) -> Instant:
    return Instant(seconds)


def connect(client: ExecutorClient, executor: Executor, *, seconds: float = 0.0) -> None:
    client.run_due(at=at(seconds))
    executor.send(hello(), wire.HelloEnd())
    assert [Connected(hello(), ())] == client.receive(at=at(seconds))


def test_a_greeting_is_one_event_with_every_run(client: ExecutorClient, executor: Executor) -> None:
    run = wire.RunReport(uid=UID, state=wire.RunState.RUNNING, pid=7)

    client.run_due(at=at(0))
    executor.send(hello(), run)
    assert [] == client.receive(at=at(0))
    assert not client.answering
    executor.send(wire.HelloEnd())

    assert [Connected(hello(), (run,))] == client.receive(at=at(0))
    assert client.answering


def test_lines_may_arrive_in_pieces(client: ExecutorClient, executor: Executor) -> None:
    connect(client, executor)
    line = msgspec.json.encode(wire.Started(uid=UID, pid=1, start_ticks=2, at=3.0)) + b"\n"

    executor.send(raw=line[:10])
    assert [] == client.receive(at=at(0))
    executor.send(raw=line[10:] + line[:5])
    assert [wire.Started(uid=UID, pid=1, start_ticks=2, at=3.0)] == client.receive(at=at(0))


def test_the_worker_socket_comes_with_the_greeting(
    client: ExecutorClient, executor: Executor
) -> None:
    client.run_due(at=at(0))
    with socket.socket(socket.AF_UNIX) as listener:
        line = msgspec.json.encode(hello()) + b"\n"
        socket.send_fds(executor.ends[-1], [line], [listener.fileno()])

    client.receive(at=at(0))
    (passed,) = client.take_worker_listeners()

    assert socket.AF_UNIX == passed.family
    assert [] == client.take_worker_listeners()
    passed.close()


def test_the_listener_with_the_name_is_the_last_one_taken(
    client: ExecutorClient, executor: Executor
) -> None:
    client.run_due(at=at(0))
    executor.send(hello(), wire.HelloEnd())
    client.receive(at=at(0))
    line = msgspec.json.encode(wire.Door()) + b"\n"
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4)]
        older, newest, waited_at, with_name = (one.fileno() for one in sockets)
        inodes = [os.fstat(one).st_ino for one in (older, waited_at, with_name, newest)]
        socket.send_fds(executor.ends[-1], [line], [older])
        assert [wire.Door()] == client.receive(at=at(1))
        socket.send_fds(executor.ends[-1], [line], [with_name, waited_at])
        assert [wire.Door()] == client.receive(at=at(1))
        socket.send_fds(executor.ends[-1], [line], [newest])
        assert [wire.Door()] == client.receive(at=at(1))

    taken = [stack.enter_context(one) for one in client.take_worker_listeners()]

    assert inodes == [os.fstat(one.fileno()).st_ino for one in taken]
    stack.close()


def test_an_executor_of_another_node_is_refused_with_both_directories(
    client: ExecutorClient, executor: Executor
) -> None:
    client.run_due(at=at(0))
    executor.send(hello(node_id="stranger", state_dir="/theirs"), wire.HelloEnd())

    with pytest.raises(ConfigError, match=r"/theirs \(node stranger\), ours is /ours"):
        client.receive(at=at(0))


def test_an_executor_whose_state_directory_was_lost_is_refused_with_its_pid(
    client: ExecutorClient, executor: Executor
) -> None:
    client.run_due(at=at(0))
    executor.send(hello(node_id="of before", state_dir="/ours"), wire.HelloEnd())

    lost = r"\(pid 42, node of before\) has lost its state directory: /ours .* kill 42$"
    with pytest.raises(ConfigError, match=lost):
        client.receive(at=at(0))


def test_an_executor_of_a_copied_state_directory_is_refused_with_both(
    client: ExecutorClient, executor: Executor
) -> None:
    client.run_due(at=at(0))
    executor.send(hello(state_dir="/theirs"), wire.HelloEnd())

    with pytest.raises(ConfigError, match=r"/ours is a copy of /theirs, .* \(pid 42\)"):
        client.receive(at=at(0))


def test_another_protocol_version_is_never_greeted(
    client: ExecutorClient, executor: Executor
) -> None:
    client.run_due(at=at(0))
    executor.send(hello(version=wire.VERSION + 1), wire.HelloEnd())

    with capture_logs() as logs:
        assert [] == client.receive(at=at(0))
    assert not client.answering
    assert "executor.incompatible" == logs[-1]["event"]
    assert wire.VERSION + 1 == (client.incompatible or hello()).version


def test_an_executor_of_another_version_is_forgotten_once_its_connection_ended(
    client: ExecutorClient, executor: Executor
) -> None:
    client.run_due(at=at(0))
    executor.send(hello(version=wire.VERSION + 1), wire.HelloEnd())
    client.receive(at=at(0))
    executor.ends[-1].close()
    client.receive(at=at(1))

    assert None is client.incompatible


def test_messages_before_the_end_of_a_connection_are_read(
    client: ExecutorClient, executor: Executor
) -> None:
    connect(client, executor)
    exited = wire.Exited(uid=UID, exit=wire.Exit(at=1.0, exit_code=0))
    executor.send(exited)
    executor.ends[-1].close()

    events = client.receive(at=at(1)) + client.receive(at=at(1))

    assert [exited, Disconnected("connection closed")] == events
    assert not client.answering


def test_the_last_messages_are_read_although_it_cannot_be_written_to(
    client: ExecutorClient, executor: Executor
) -> None:
    """An executor that is stopped reports how its runs ended, and exits while we write to it."""
    client.run_due(at=Instant(0.0))
    executor.send(hello(), wire.HelloEnd())
    client.receive(at=Instant(0.1))
    exited = wire.Exited(uid=UID, exit=wire.Exit(at=1.0, exit_code=0))
    executor.send(exited)
    executor.ends[-1].close()

    client.send(wire.End(uid=UID, reason="released"))
    client.flush(at=Instant(0.2))

    last, gone = client.receive(at=Instant(0.3))
    assert exited == last
    assert isinstance(gone, Disconnected)


def test_junk_ends_only_the_connection(client: ExecutorClient, executor: Executor) -> None:
    connect(client, executor)

    executor.send(raw=b"\x00junk\n")
    (event,) = client.receive(at=at(1))
    client.run_due(at=at(3))

    assert isinstance(event, Disconnected)
    assert "not understood" in event.reason
    assert 2 == len(executor.ends)


def test_without_an_executor_one_is_launched_and_tried_again_ever_more_slowly(
    client: ExecutorClient, executor: Executor
) -> None:
    executor.up = False
    now, waits = 0.0, []

    for _ in range(9):
        due = client.run_due(at=at(now))
        waits.append(round(due - now, 3))
        now = due

    assert [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0, 1.0] == waits
    assert 9 == len(executor.launches)


def test_why_no_executor_stays_is_known_until_one_greets(
    client: ExecutorClient, executor: Executor
) -> None:
    executor.last_error = "the journal is a directory"

    assert "the journal is a directory" == client.last_error
    connect(client, executor)

    assert client.last_error is None


def test_silence_is_noticed_after_ten_seconds_and_ends_with_an_answer(
    client: ExecutorClient, executor: Executor
) -> None:
    connect(client, executor)

    for second in range(16):
        client.run_due(at=at(second))
        client.flush(at=at(second))
        assert client.answering == (second <= 15)
    client.run_due(at=at(15.1))
    assert not client.answering
    assert b'{"type":"ping","sequence":1}' in executor.received()
    executor.send(wire.Pong(sequence=1))
    client.receive(at=at(16))
    with capture_logs() as logs:
        client.run_due(at=at(16))

    assert client.answering
    assert ["executor.answered"] == [line["event"] for line in logs]


def test_our_own_absence_is_not_the_executors_silence(
    client: ExecutorClient, executor: Executor
) -> None:
    connect(client, executor)
    client.run_due(at=at(5))
    client.flush(at=at(5))
    executor.send(wire.Pong(sequence=1))

    client.receive(at=at(3600))
    client.run_due(at=at(3600))

    assert client.answering


def test_an_executor_that_does_not_read_is_dropped(
    client: ExecutorClient, executor: Executor
) -> None:
    connect(client, executor)
    for _ in range(3):
        client.send(wire.End(uid=UID, reason="x" * 1_000_000))
        client.flush(at=at(1))
    assert client.wants_to_write

    client.run_due(at=at(11.5))

    assert [Disconnected("does not read")] == client.receive(at=at(11.5))


def test_a_message_without_a_connection_is_lost_not_kept(
    client: ExecutorClient, executor: Executor
) -> None:
    client.send(wire.Leave())

    connect(client, executor)
    client.flush(at=at(0))

    with pytest.raises(BlockingIOError):
        executor.received()


def test_a_connection_that_is_never_greeted_is_silent_and_costs_no_turns(
    client: ExecutorClient, executor: Executor
) -> None:
    """It waits in the backlog of an executor that is stopped."""
    due = client.run_due(at=at(0))

    with capture_logs() as logs:
        for turn in range(1, 20):
            assert due > turn - 1
            client.receive(at=at(turn))
            due = client.run_due(at=at(turn))
            assert client.silent == (turn > 2)

    assert not client.answering
    assert ["executor.silent"] == [line["event"] for line in logs]
    assert 1 == len(executor.ends)
    executor.send(hello(), wire.HelloEnd())
    client.receive(at=at(20))
    client.run_due(at=at(20))
    assert client.answering


def test_one_that_speaks_another_version_is_not_silent_and_costs_no_turns(
    client: ExecutorClient, executor: Executor
) -> None:
    client.run_due(at=at(0))
    executor.send(hello(version=wire.VERSION + 1), wire.HelloEnd())

    for turn in range(1, 30):
        client.receive(at=at(turn))
        assert client.run_due(at=at(turn)) > turn

    assert not client.silent
    assert client.incompatible is not None


def test_one_that_does_not_answer_costs_no_turns(
    client: ExecutorClient, executor: Executor
) -> None:
    connect(client, executor)

    for turn in range(1, 60):
        client.receive(at=at(turn))
        assert client.run_due(at=at(turn)) > turn
        client.flush(at=at(turn))

    assert client.silent
    assert 1 == executor.received().count(b"ping")


def test_the_silence_of_two_that_stood_still_together_is_nobodys(
    client: ExecutorClient, executor: Executor
) -> None:
    connect(client, executor)
    client.run_due(at=at(5))
    client.flush(at=at(5))

    client.receive(at=at(3600))
    client.run_due(at=at(3600))
    assert client.answering
    for turn in range(3601, 3612):
        client.receive(at=at(turn))
        client.run_due(at=at(turn))

    assert client.silent


def test_an_executor_that_went_silent_after_a_message_is_found_silent(
    client: ExecutorClient, executor: Executor
) -> None:
    connect(client, executor)
    client.run_due(at=at(5))
    client.flush(at=at(5))
    executor.send(wire.Started(uid=UID, pid=1, start_ticks=2, at=3.0))

    for turn in range(6, 18):
        client.receive(at=at(turn))
        client.run_due(at=at(turn))

    assert client.silent


def test_only_an_answer_to_a_later_ping_proves_that_it_has_answered(
    client: ExecutorClient, executor: Executor
) -> None:
    """Any other message may have waited in the socket since before."""
    connect(client, executor, seconds=1)
    assert client.has_answered(since=at(1))

    client.receive(at=at(8))
    assert not client.has_answered(since=at(6))
    executor.send(wire.Started(uid=UID, pid=1, start_ticks=2, at=3.0), wire.Pong(sequence=0))
    client.receive(at=at(9))
    assert not client.has_answered(since=at(6))
    client.flush(at=at(9))
    assert b'{"type":"ping","sequence":1}\n' == executor.received()
    executor.send(wire.Pong(sequence=1))
    client.receive(at=at(10))

    assert client.has_answered(since=at(6))
    assert client.has_answered(since=at(8))
    assert not client.has_answered(since=at(9))


def test_the_queue_for_an_executor_that_does_not_read_is_bounded_by_its_runs(
    client: ExecutorClient, executor: Executor
) -> None:
    connect(client, executor)
    client.send(wire.End(uid=UID, reason="x" * 10_000_000))
    client.flush(at=at(1))
    for turn in range(3000):
        uid = wire.RunUid(str(turn % 3))
        client.send(wire.Renew(deadlines={uid: {"absence": float(turn)}}))
        client.send(wire.Noted(uid=uid, serial=turn))
        client.flush(at=at(2))
    assert client.wants_to_write

    sent = 0
    while client.wants_to_write:
        sent += len(executor.received())
        client.flush(at=at(3))
    assert sent < 10_000_000 + 1000


def test_an_executor_that_comes_soon_after_the_daemon_is_worth_no_warning(
    executor: Executor,
) -> None:
    client = ExecutorClient(executor.connect, node_id="me", state_dir="/ours", check=accept)
    executor.up = False
    with capture_logs() as soon:
        for tenth in range(10):
            client.run_due(at=at(tenth / 10))
    with capture_logs() as late:
        for second in range(1, 60):
            client.run_due(at=at(second))
    client.close()

    assert [] == soon
    assert ["daemon.waiting"] == [line["event"] for line in late]
