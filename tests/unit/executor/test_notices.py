"""The executor's ear for systemd's own protocol, in virtual time on real sockets."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dispatcher import wire
from dispatcher.executor.notices import (
    GROUPING,
    MOST_NAMELESS,
    READS,
    WINDOW,
    Notices,
    parsed,
)
from dispatcher.outbox import merged
from dispatcher.times import Instant
from tests.unit.executor.world import FakeKernel, FakeServer, World

NOW = Instant(1000.0)
RUN = wire.RunUid("run")


class Ear:
    """Notices whose daemon is a list, and what a worker sends to."""

    def __init__(self, directory: Path) -> None:
        self.kernel = FakeKernel()
        self.daemon = FakeServer()
        self.directory = directory
        kernel: Any = self.kernel
        self.notices = Notices(str(directory), kernel, self.daemon)

    def open(self, watchdog: float = 60.0, uid: wire.RunUid = RUN) -> socket.socket:
        out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        out.connect(self.notices.open(uid, watchdog)["NOTIFY_SOCKET"])
        return out

    def receive(self, at: Instant = NOW) -> list[tuple[wire.RunUid, Instant]]:
        """Receive what is ready, and send what is due."""
        extensions = list(self.notices.receive(self.kernel.wait(0), at))
        self.notices.send_due(at)
        return extensions

    def taken(self) -> list[wire.Notice]:
        sent, self.daemon.sent = self.daemon.sent, []
        return sent

    def acknowledge(self) -> None:
        for notice in self.taken():
            self.notices.confirm(notice.uid, notice.serial)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A path that is short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="ear-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def ear(directory: Path) -> Iterator[Ear]:
    ear = Ear(directory)
    yield ear
    ear.notices.forget(RUN)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (b"WATCHDOG=1", {"beat": True}),
        (b"READY=1\nMAINPID=12", {"beat": True}),
        (b"WATCHDOG=1\nSTATUS=a=b\n", {"beat": True, "note": "a=b"}),
        (b"STATUS=", {"note": ""}),
        (b"WATCHDOG=trigger", {"failed": True}),
        (b"EXTEND_TIMEOUT_USEC=2500000", {"until": NOW + 2.5}),
        (b"WATCHDOG=0", None),
        (b"READY=0\nSTOPPING=1\nRELOADING=1\nFDSTORE=1\nERRNO=2\nBARRIER=1\nWATCHDOG_USEC=1", None),
        (b"EXTEND_TIMEOUT_USEC=1.5", None),
        ("EXTEND_TIMEOUT_USEC=\N{SUPERSCRIPT TWO}".encode(), None),
        (b"WATCHDOG=1\r\n", None),
        (b"", None),
    ],
    ids=str,
)
def test_a_message_becomes_a_notice(text: bytes, facts: dict[str, Any] | None) -> None:
    expected = None if facts is None else wire.Notice(uid=RUN, serial=3, **facts)

    assert expected == parsed(text, RUN, 3, NOW)


def test_two_notices_merge_into_the_later_note_and_the_longer_time() -> None:
    first = wire.Notice(uid=RUN, serial=1, beat=True, note="a", until=20.0)
    second = wire.Notice(uid=RUN, serial=2, failed=True, until=10.0)
    third = wire.Notice(uid=RUN, serial=3, note="b")

    assert wire.Notice(uid=RUN, serial=3, beat=True, note="b", failed=True, until=20.0) == merged(
        merged(merged(None, first), second), third
    )


@pytest.mark.parametrize(("watchdog", "pause"), [(60.0, GROUPING), (0.08, 0.01)])
def test_a_lone_beat_waits_for_nothing_and_the_next_for_no_eighth_of_its_lease(
    ear: Ear, watchdog: float, pause: float
) -> None:
    with ear.open(watchdog) as out:
        out.send(b"WATCHDOG=1")
        ear.receive()
        assert [1] == [notice.serial for notice in ear.daemon.sent]
        ear.acknowledge()
        out.send(b"WATCHDOG=1")
        ear.receive(Instant(NOW + pause / 2))
        assert [] == ear.taken()
        assert pytest.approx(NOW + pause) == ear.notices.due
        ear.receive(ear.notices.due)
        assert [2] == [notice.serial for notice in ear.taken()]


def test_the_next_notice_waits_until_the_last_was_acknowledged_unless_it_is_urgent(
    ear: Ear,
) -> None:
    with ear.open() as out:
        out.send(b"WATCHDOG=1")
        ear.receive()
        (first,) = ear.taken()
        for number in range(5):
            out.send(b"WATCHDOG=1\nSTATUS=%d" % number)
            ear.receive(Instant(NOW + 1 + number))
        assert [] == ear.taken()
        out.send(b"EXTEND_TIMEOUT_USEC=1000000")
        assert [(RUN, Instant(NOW + 11))] == ear.receive(Instant(NOW + 10))
        (urgent,) = ear.taken()
        assert ("4", NOW + 11, True) == (urgent.note, urgent.until, urgent.beat)
        out.send(b"STATUS=5")
        ear.notices.confirm(RUN, first.serial)  # of two: the later one is not noted yet
        ear.receive(Instant(NOW + 20))
        assert [] == ear.taken()
        ear.notices.confirm(RUN, urgent.serial)
        ear.receive(Instant(NOW + 20))
        assert [("5", False)] == [(notice.note, notice.beat) for notice in ear.taken()]


def test_nothing_is_sent_without_a_daemon_and_everything_to_the_next(ear: Ear) -> None:
    ear.daemon.connected = False
    with ear.open() as out:
        out.send(b"WATCHDOG=1\nSTATUS=one")
        ear.receive()
        assert ear.notices.due > NOW + 60  # nobody is woken for it
        ear.daemon.connected = True
        ear.notices.resend_unconfirmed()
        (notice,) = ear.taken()
        assert (True, "one") == (notice.beat, notice.note)


def test_a_flood_is_read_now_and_then_and_the_rest_waits_in_its_own_socket(ear: Ear) -> None:
    other = wire.RunUid("other")
    with ear.open() as loud, ear.open(uid=other) as soft:
        loud.setblocking(False)
        for _ in range(READS):
            loud.send(b"WATCHDOG=1")
            ear.receive()
        assert pytest.approx(NOW + WINDOW) == ear.notices.due
        loud.send(b"STATUS=one more")
        soft.send(b"WATCHDOG=1")
        ear.receive()
        ear.notices.resend_unconfirmed()
        assert {(RUN, None), (other, None)} == {(notice.uid, notice.note) for notice in ear.taken()}
        ear.receive(Instant(NOW + WINDOW))  # it is listened to again
        ear.receive(Instant(NOW + WINDOW))
        ear.notices.resend_unconfirmed()
        assert (RUN, "one more") in {(notice.uid, notice.note) for notice in ear.taken()}
        ear.notices.forget(other)


def test_a_socket_that_is_not_watched_can_be_closed(ear: Ear) -> None:
    with ear.open() as out:
        out.setblocking(False)
        for _ in range(READS):
            out.send(b"x")
            ear.receive()
        assert ear.notices.due < NOW + 1
        ear.notices.close(RUN)
        ear.notices.close(RUN)
        assert [] == list((ear.directory / "notify").iterdir())
        assert ear.notices.due > NOW + 60
        with pytest.raises(ConnectionRefusedError):
            out.send(b"x")


def test_the_last_notices_of_a_run_are_reported_before_its_end(directory: Path) -> None:
    """Also those that came after the wait from which the end is known."""
    world = World(directory)
    leader = world.start(str(RUN), watchdog=60.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect(str(directory / "notify" / RUN))
        world.kernel.watched.clear()
        out.send(b"WATCHDOG=trigger\nSTATUS=bye")
    world.kernel.watched.clear()
    world.kernel.ignore = lambda _descriptor: None  # type: ignore[method-assign]
    world.kernel.dies(leader)
    world.run_for(1)

    sent = [type(message) for message in world.server.sent]
    assert [wire.Notice, wire.Exited] == sent[-2:]
    assert (True, "bye") == ((last := world.last(wire.Notice)).failed, last.note)


def test_a_run_is_read_at_its_new_socket_and_at_the_one_that_lost_its_name(ear: Ear) -> None:
    with ear.open() as connected, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        path = ear.directory / "notify" / RUN
        path.unlink()
        *_, name = ear.notices.names
        assert not name.is_there
        name.restore()
        connected.send(b"STATUS=before")
        ear.receive()
        ear.acknowledge()
        sender.sendto(b"STATUS=after", str(path))
        ear.receive(Instant(NOW + 1))
        connected.send(b"EXTEND_TIMEOUT_USEC=1000000")

        assert ["after"] == [notice.note for notice in ear.taken()]
        assert name.is_there
        assert [Instant(NOW + 3)] == ear.notices.read_rest(RUN, Instant(NOW + 2))


def test_sockets_without_a_name_are_few_and_go_with_the_run(ear: Ear) -> None:
    ear.open().close()
    watched = len(ear.kernel.watched)
    *_, name = ear.notices.names
    for _ in range(3 * MOST_NAMELESS):
        name.restore()
        ear.receive()

    assert watched + MOST_NAMELESS == len(ear.kernel.watched)
    ear.notices.forget(RUN)
    assert watched - 1 == len(ear.kernel.watched)
    assert [] == list((ear.directory / "notify").iterdir())


def test_the_nameless_socket_in_use_stays_open(ear: Ear) -> None:
    """It was refused after the fifth removal of its name, and its run was lost."""
    with ear.open() as connected:
        *_, name = ear.notices.names
        at = NOW
        for _ in range(3 * MOST_NAMELESS):
            at = Instant(at + 1)
            name.restore()
            ear.receive(at)
            connected.send(b"WATCHDOG=1")
            ear.receive(at)

        connected.send(b"STATUS=still here")
        ear.receive(Instant(at + 1))
        ear.acknowledge()
        ear.receive(Instant(at + 2))
        assert ["still here"] == [notice.note for notice in ear.taken()]


def test_a_flood_at_a_nameless_socket_is_bounded_like_any_other(ear: Ear) -> None:
    with ear.open() as out:
        *_, name = ear.notices.names
        name.restore()
        ear.receive()
        out.setblocking(False)
        at = NOW
        for _ in range(3):
            with suppress(BlockingIOError):
                while True:
                    out.send(b"WATCHDOG=1")
            ear.receive(at)
            at = Instant(at + WINDOW / 3)

        assert ear.notices.due <= Instant(NOW + WINDOW)
        speaker = ear.notices._channels[RUN]
        assert READS >= speaker.read


def test_a_run_gets_its_socket_together_with_the_missing_directory(
    ear: Ear,
) -> None:
    shutil.rmtree(ear.directory / "notify")
    ear.notices.open(RUN, 60.0)
    directory, name = ear.notices.names
    assert not directory.is_there
    assert not name.is_there

    directory.restore()
    name.restore()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(b"WATCHDOG=1", name.path)
        ear.receive()
        ear.receive()

    assert [True] == [notice.beat for notice in ear.taken()]
