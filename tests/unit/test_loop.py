"""The daemon's loop over real sockets, with a wait that finds nothing as after a stop."""

import json
import os
import select
import selectors
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from dispatcher import wire
from dispatcher.daemon import channel
from dispatcher.daemon.duties import Duty, ManagerReports
from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.daemon.loop import Loop
from dispatcher.daemon.worker_channel import GROUPING
from dispatcher.daemon_report import DaemonReport
from dispatcher.executor_api import Connected
from dispatcher.host import sockets
from dispatcher.host.notify import Notifier
from dispatcher.store.bell import NO_BELL, Bell
from dispatcher.supervisor.figures import Figures
from dispatcher.supervisor.report import executor_state
from dispatcher.times import Instant
from tests.reports import report
from tests.unit.test_executor_client import accept, hello
from tests.unit.test_notify import Manager

#: More than are let in at once.
WORKERS = 2 * channel.ACCEPTS + 8

UID = wire.RunUid("a" * 32)


class Supervisor:
    """Notes what each tick is given; workers are answered at once."""

    shortest_lease = 5.0
    open_runs = None

    def __init__(self, client: ExecutorClient) -> None:
        self._client = client
        self._hello: wire.Hello | None = None
        self.figures = Figures()
        self.is_done = False
        self.wakes = 0
        self.ticks: list[tuple[list[str], int, bool]] = []

    def wake(self) -> None:
        self.wakes += 1

    def is_over(self, *, at: Instant) -> bool:
        return self.is_done

    def tick(self, events: Any, requests: Any, *, caught_up: bool, at: Instant) -> Instant:
        self.ticks.append(([type(event).__name__ for event in events], len(requests), caught_up))
        for request in requests:
            request.answer(None, at)
        for event in events:
            self._hello = event.hello if isinstance(event, Connected) else self._hello
        return Instant(at + 1)

    def report(self, *, at: Instant) -> DaemonReport:
        return report(slots=1, executor=executor_state(self._hello, self._client))


class PipeBell:
    """A bell whose descriptor is a pipe's."""

    statement = ""
    failure = None

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        os.write(self.writer, b"1")

    def fileno(self) -> int:
        return self.reader

    def read(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.reader, 100)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Daemon:
    """A loop, and the other end of its connection to the executor."""

    def __init__(
        self,
        clock: Any,
        notifier: Notifier | None = None,
        bell: Bell = NO_BELL,
        duty: Duty | None = None,
    ) -> None:
        ours, self.executor = socket.socketpair()
        ours.setblocking(False)
        self.waiting = [ours]
        self.client = ExecutorClient(
            self.connect, node_id="me", state_dir="/ours", launcher=None, check=accept
        )
        self.supervisor = Supervisor(self.client)
        supervisor: Any = self.supervisor
        reports = notifier and ManagerReports(notifier, supervisor, self.client).run_due
        duties: list[Duty] = [each for each in (reports, duty) if each]
        self.selector = selectors.EpollSelector()
        self.loop = Loop(
            supervisor, self.client, selector=self.selector, bell=bell, duties=duties, clock=clock
        )

    def connect(self) -> socket.socket:
        if not self.waiting:
            raise ConnectionRefusedError
        return self.waiting.pop()

    def close(self) -> None:
        self.loop.close()
        self.selector.close()
        for connection in (self.executor, *self.waiting):
            connection.close()


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    now = [1000.0]

    class Stopped(selectors.EpollSelector):
        """One whose process is stopped in each wait: it is late, and finds nothing."""

        def select(self, timeout: float | None = None) -> Any:
            if timeout:
                now[0] += 10
                return []
            return super().select(timeout)

    monkeypatch.setattr(selectors, "EpollSelector", Stopped)
    daemon = Daemon(lambda: Instant(now[0]))
    daemon.loop.step()
    yield daemon
    daemon.close()


def greet(daemon: Daemon, listener: socket.socket) -> None:
    greeting = b"".join(wire.encode(message) + b"\n" for message in (hello(), wire.HelloEnd()))
    socket.send_fds(daemon.executor, [greeting], [listener.fileno()])


def beat(number: int) -> bytes:
    request = {"op": "heartbeat", "task_id": number, "lock": "x"}
    return json.dumps(request).encode() + b"\n"


def test_every_waiting_connection_is_read_before_anything_is_judged(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with ExitStack() as stack:
        listener = stack.enter_context(sockets.listen("sock", backlog=128))
        for number in range(WORKERS):
            worker = stack.enter_context(socket.socket(socket.AF_UNIX))
            worker.connect("sock")
            worker.sendall(beat(number))
        greet(daemon, listener)
        daemon.supervisor.ticks.clear()

        while not (ticks := daemon.supervisor.ticks) or not ticks[-1][2]:
            daemon.loop.step()

        assert ["Connected"] == ticks[-1][0], "what was sent before is read before"
        assert WORKERS == sum(requests for _, requests, _ in ticks)
        assert [True] == [received for *_, received in ticks if received]


def test_a_worker_may_get_the_number_of_a_connection_that_just_ended(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A KeyError ended the daemon: the executor left in the turn in which a worker came."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        listener = stack.enter_context(sockets.listen("sock", backlog=128))
        greet(daemon, listener)
        while not any("Connected" in events for events, *_ in daemon.supervisor.ticks):
            daemon.loop.step()
        connection = daemon.client.connection
        assert connection is not None
        number = connection.fileno()
        while stack.enter_context(open("filler", "w")).fileno() < number:
            pass  # so that the number will be the lowest that is free
        worker = stack.enter_context(socket.socket(socket.AF_UNIX))
        worker.connect("sock")
        worker.sendall(beat(1))
        daemon.executor.close()

        while not any(requests for _, requests, _ in daemon.supervisor.ticks):
            daemon.loop.step()

        assert stat.S_ISSOCK(os.fstat(number).st_mode), "the case that is meant"
        assert "Disconnected" in [name for names, *_ in daemon.supervisor.ticks for name in names]


def test_a_beat_that_waits_for_its_grouping_is_read_before_anything_is_judged(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        greet(daemon, stack.enter_context(sockets.listen("sock", backlog=128)))
        workers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        for worker in workers:
            worker.connect("sock")
        for _ in range(3):
            daemon.loop.step(longest=0)
        assert ([], 0, True) == daemon.supervisor.ticks[-1]

        for number, worker in enumerate(workers):
            worker.sendall(beat(number))
            daemon.loop.step(longest=0)
        daemon.loop.step()

        assert [([], 1, True), ([], 0, False), ([], 1, True)] == daemon.supervisor.ticks[-3:]


def test_beats_in_the_pause_after_a_commit_wake_nobody_and_are_taken_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    now = [1000.0]

    class Waiting(selectors.EpollSelector):
        """One whose waits take no time but the test's."""

        def select(self, timeout: float | None = None) -> Any:
            if timeout and not super().select(0):
                now[0] += timeout
            return super().select(0)

    monkeypatch.setattr(selectors, "EpollSelector", Waiting)
    with ExitStack() as stack:
        daemon = stack.enter_context(closing(Daemon(lambda: Instant(now[0]))))
        listener = stack.enter_context(sockets.listen("sock", backlog=128))
        greet(daemon, listener)
        daemon.loop.step()
        workers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(9)]
        for number, worker in enumerate(workers):
            worker.connect("sock")
            worker.sendall(beat(number))
        while sum(requests for _, requests, _ in daemon.supervisor.ticks) < 9:
            daemon.loop.step()
        taken_at = now[0]
        daemon.supervisor.ticks.clear()

        for number, worker in enumerate(workers):
            worker.sendall(beat(number))
        daemon.loop.step()

        assert [([], 9, True)] == daemon.supervisor.ticks
        assert GROUPING == pytest.approx(now[0] - taken_at)


def test_unsent_messages_are_sent_before_the_daemon_leaves(
    daemon: Daemon,
) -> None:
    daemon.client.send(wire.End(uid=UID, reason="x" * 3_000_000))
    daemon.client.send(wire.Forget(uid=UID))
    received = bytearray()

    def read() -> None:
        while chunk := daemon.executor.recv(100_000):
            received.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    daemon.client.send(wire.Leave())
    daemon.loop.flush(within=10)
    daemon.loop.close()
    reader.join()

    messages = [wire.decode_to_executor(line) for line in received.splitlines()]
    assert [wire.End, wire.Forget, wire.Leave] == [type(message) for message in messages]


def test_an_executor_that_does_not_read_keeps_no_daemon_from_leaving() -> None:
    daemon = Daemon(iter(Instant(n / 10) for n in range(1000)).__next__)
    daemon.loop.step()
    daemon.client.send(wire.End(uid=UID, reason="x" * 3_000_000))

    daemon.loop.flush(within=0.5)

    assert daemon.client.wants_to_write
    daemon.close()


def joined(daemon: Daemon, stack: ExitStack) -> None:
    """Let the executor greet the daemon, and pass it the workers' door."""
    greet(daemon, stack.enter_context(sockets.listen("sock", backlog=128)))
    while not any("Connected" in events for events, *_ in daemon.supervisor.ticks):
        daemon.loop.step()
    daemon.supervisor.ticks.clear()


def send_beat(stack: ExitStack, number: int) -> None:
    worker = stack.enter_context(socket.socket(socket.AF_UNIX))
    worker.connect("sock")
    worker.sendall(beat(number))


def exit_after_a_request(daemon: Daemon, stack: ExitStack) -> None:
    """Let a worker send a request, and the executor report its exit, before either is read."""
    send_beat(stack, 1)
    exited = wire.Exited(uid=UID, exit=wire.Exit(at=1.0, exit_code=1))
    daemon.executor.sendall(wire.encode(exited) + b"\n")


def test_an_exit_waits_until_the_earlier_requests_of_its_worker_were_read(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol 1.5: declarations come before exits, also when both were waiting."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        joined(daemon, stack)
        exit_after_a_request(daemon, stack)

        while not any("Exited" in events for events, *_ in daemon.supervisor.ticks):
            daemon.loop.step()

        *before, (events, requests, _) = daemon.supervisor.ticks
        assert 1 == sum(count for _, count, _ in before) + requests
        assert ["Exited"] == events


def test_the_daemon_stays_while_an_exit_waits(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        joined(daemon, stack)
        exit_after_a_request(daemon, stack)
        daemon.loop.step()
        assert [[]] == [events for events, *_ in daemon.supervisor.ticks], "it waits"

        daemon.supervisor.is_done = True
        daemon.loop.run()

        assert "Exited" in [event for events, *_ in daemon.supervisor.ticks for event in events]


def test_requests_that_come_one_by_one_over_new_connections_share_a_commit(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol 1.3: a connection for each heartbeat costs no commit for each."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        joined(daemon, stack)
        send_beat(stack, 1)
        while not any(requests for _, requests, _ in daemon.supervisor.ticks):
            daemon.loop.step()
        daemon.supervisor.ticks.clear()

        for number in range(5):
            send_beat(stack, number)
            daemon.loop.step(longest=0)  # lets it in, and reads who came before
        assert [0] * 5 == [requests for _, requests, _ in daemon.supervisor.ticks]
        while not daemon.supervisor.ticks[-1][1]:
            daemon.loop.step()

        assert 5 == daemon.supervisor.ticks[-1][1]


def test_r60_it_is_ready_once_store_and_executor_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    manager = Manager(f"@ready-{tmp_path}"[:100])
    with ExitStack() as stack:
        stack.enter_context(closing(manager.socket))
        notifier = stack.enter_context(closing(Notifier(manager.environ)))
        daemon = Daemon(lambda: Instant(1000.0), notifier)
        stack.callback(daemon.close)
        daemon.loop.step(longest=0)
        assert ["STATUS=waits for the executor; 0 of 1 slots busy"] == manager.received()

        greet(daemon, stack.enter_context(sockets.listen("sock", backlog=128)))
        while "Connected" not in daemon.supervisor.ticks[-1][0]:
            assert [] == manager.received()
            daemon.loop.step(longest=0)

        assert ["STATUS=0 of 1 slots busy", "READY=1"] == manager.received()


def test_an_executor_that_does_not_listen_is_not_waited_for(tmp_path: Path) -> None:
    """Its unit is ordered after the daemon's, so that at a shutdown the daemon leaves last."""
    manager = Manager(f"@alone-{tmp_path}"[:100])
    with closing(manager.socket), closing(Notifier(manager.environ)) as notifier:
        daemon = Daemon(lambda: Instant(1000.0), notifier)
        daemon.waiting.pop().close()
        with closing(daemon):
            daemon.loop.step(longest=0)

            assert "READY=1" in manager.received()


def test_a_ring_after_the_tick_makes_the_next_turn_come_at_once() -> None:
    with closing(PipeBell()) as bell:

        def ring(at: Instant) -> Instant:
            bell.ring()
            return Instant(at + 60)

        with closing(Daemon(lambda: Instant(1000.0), bell=bell, duty=ring)) as daemon:
            daemon.loop.step(longest=0)
            waits = select.poll()
            waits.register(daemon.loop, select.POLLIN)

            assert waits.poll(0)


def test_a_daemon_that_sleeps_turns_once_when_the_bell_is_rung() -> None:
    with closing(PipeBell()) as bell:
        daemon = Daemon(lambda: Instant(1000.0), bell=bell)
        with closing(daemon):
            daemon.loop.step(longest=0)
            asleep = select.poll()
            asleep.register(daemon.loop, select.POLLIN)
            assert [] == asleep.poll(0)
            daemon.supervisor.ticks.clear()

            bell.ring()
            bell.ring()
            assert asleep.poll(0), "its wait returns"
            daemon.loop.step()

            assert (1, 1) == (len(daemon.supervisor.ticks), daemon.supervisor.wakes)
            assert [] == asleep.poll(0), "two rings are one"
