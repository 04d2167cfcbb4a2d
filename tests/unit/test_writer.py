"""Log lines for a reader that stops: queued, then dropped and counted; never waited for."""

import errno
import fcntl
import os
import pty
import select
import socket
import termios
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dispatcher.logs import writer
from dispatcher.logs.writer import MOST_QUEUED, RETRY, NonBlockingWriter, ThreadedSink, sink_for
from dispatcher.times import Instant

LINE = b"x" * 999 + b"\n"


class Reader:
    """A descriptor with its other end, and a writer to it whose time is the test's."""

    def __init__(self, write: int, read: int) -> None:
        self.write, self.read = write, read
        self.now = Instant(0.0)
        self.dropped: list[int] = []
        self.writer = NonBlockingWriter(sink_for(write), report=self.report, clock=lambda: self.now)

    def report(self, lines: int) -> None:
        self.dropped.append(lines)
        self.writer.write(b"dropped %d\n" % lines)

    def take(self) -> bytes:
        """Read all that is there and all that was queued, as a reader that is back does."""
        os.set_blocking(self.read, False)
        taken = b""
        while True:
            try:
                taken += os.read(self.read, 1 << 16)
            except BlockingIOError:
                if self._is_written():
                    return taken
                self.writer.sink.wait(0.01)
                self.writer.retry()

    def _is_written(self) -> bool:
        """Whether nothing comes any more: neither from the queue nor from a thread."""
        behind = getattr(self.writer.sink.send, "__self__", None)
        busy = isinstance(behind, ThreadedSink) and not behind.idle.is_set()
        return not busy and not self.writer._queue and not select.select([self.read], [], [], 0)[0]


@pytest.fixture(
    params=[
        "pipe",
        "fifo",
        "terminal",
        "stream socket",
        "another user's pipe",
        "another user's terminal",
    ]
)
def reader(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    kept: list[socket.socket] = []
    match request.param:
        case "fifo":
            os.mkfifo(tmp_path / "fifo")
            read = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
            write = os.open(tmp_path / "fifo", os.O_WRONLY)
        case "terminal" | "another user's terminal":
            read, write = pty.openpty()
            tty.setraw(write)
            if request.param != "terminal":
                monkeypatch.setattr(writer, "_reopened", _refused)
        case "stream socket":
            kept = list(socket.socketpair())
            read, write = (end.fileno() for end in kept)
        case "another user's pipe":
            read, write = os.pipe()
            monkeypatch.setattr(writer, "_reopened", _refused)
        case _:
            read, write = os.pipe()
    found = Reader(write, read)
    yield found
    found.writer.close(within=0)
    if kept:
        for end in kept:
            end.close()
    else:
        os.close(read)
        os.close(write)


def _refused(_descriptor: int) -> int:
    raise PermissionError


def test_a_reader_that_stops_costs_lines_and_gets_their_number_when_it_is_back(
    reader: Reader,
) -> None:
    for number in range(4000):  # 4 MB: more than any of them holds, and more than is queued
        reader.writer.write(b"%06d" % number + LINE)

    assert reader.now + RETRY == reader.writer.due
    taken = reader.take()

    [dropped] = reader.dropped
    *kept, last = taken.splitlines()
    assert b"dropped %d" % dropped == last
    assert 4000 == len(kept) + dropped
    assert [b"%06d" % number for number in range(len(kept))] == [line[:6] for line in kept]
    assert MOST_QUEUED - 2000 < len(taken)


def test_queued_lines_follow_in_order_with_the_next_line(reader: Reader) -> None:
    written = 0
    while reader.writer.due == float("inf"):
        reader.writer.write(b"%06d" % written + LINE)
        written += 1
    taken = reader.take()

    reader.writer.write(b"%06d" % written + LINE)

    taken += reader.take()
    assert [b"%06d" % n for n in range(written + 1)] == [line[:6] for line in taken.splitlines()]
    assert not reader.dropped


def test_a_terminal_stopped_by_ctrl_s_holds_nobody_up() -> None:
    leader, follower = pty.openpty()
    terminal = Reader(follower, leader)
    termios.tcflow(follower, termios.TCOOFF)

    terminal.writer.write(b"hello\n")
    assert not select.select([leader], [], [], 0)[0]

    termios.tcflow(follower, termios.TCOON)
    terminal.writer.retry()
    assert b"hello\r\n" == terminal.take()
    terminal.writer.close(within=0)
    os.close(leader)
    os.close(follower)


def test_the_descriptor_that_others_share_keeps_its_mode(reader: Reader) -> None:
    before = fcntl.fcntl(reader.write, fcntl.F_GETFL)
    reader.writer.write(LINE)
    reader.writer.close(within=0)
    assert before == fcntl.fcntl(reader.write, fcntl.F_GETFL)


def test_at_the_end_a_reader_gets_what_it_takes_in_time(reader: Reader) -> None:
    for _ in range(4000):
        reader.writer.write(LINE)
    times = iter([Instant(0.0), Instant(0.0), Instant(1.0)])
    reader.writer._clock = lambda: next(times, Instant(2.0))

    reader.writer.close(within=0.01)  # and it returns


class Disk:
    """A file whose disk has room for so many bytes."""

    def __init__(self, reader: Reader) -> None:
        self.room = 0
        self.text = b""
        reader.writer.sink = reader.writer.sink._replace(send=self.send)

    def send(self, line: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = line[: self.room]
        self.text += written
        self.room -= len(written)
        return len(written)


def test_a_line_that_a_full_disk_breaks_off_leaves_the_next_one_whole(reader: Reader) -> None:
    disk = Disk(reader)
    disk.room = 9
    for line in (b"first\n", b"second\n", b"third\n"):
        reader.writer.write(line)
    disk.room = 100
    reader.writer.write(b"fourth\n")

    assert b"first\nsec\nfourth\ndropped 2\n" == disk.text


def test_a_report_that_is_lost_itself_is_made_again(reader: Reader) -> None:
    disk = Disk(reader)
    reader.writer.write(b"first\n")
    disk.room = 7
    reader.writer.write(b"second\n")
    disk.room = 100
    reader.writer.write(b"third\n")

    assert b"second\nthird\ndropped 2\n" == disk.text


def test_a_line_is_still_whole_when_the_end_of_the_broken_one_had_to_wait(reader: Reader) -> None:
    disk = Disk(reader)
    disk.room = 3
    reader.writer.write(b"first\n")
    write = reader.writer.sink.send

    def stopped(line: bytes) -> int:
        raise BlockingIOError

    reader.writer.sink = reader.writer.sink._replace(send=stopped)
    reader.writer.write(b"second\n")
    reader.writer.sink = reader.writer.sink._replace(send=write)
    disk.room = 100
    reader.writer.retry()

    assert b"fir\nsecond\ndropped 1\n" == disk.text


def test_lines_lost_by_a_reader_that_left_are_reported_to_the_next(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    first = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    write = os.open(tmp_path / "fifo", os.O_WRONLY)
    reader = Reader(write, first)
    for _ in range(4000):
        reader.writer.write(LINE)
    os.close(first)
    reader.writer.write(LINE)

    reader.read = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    reader.writer.write(b"back\n")

    *unread, back, report = reader.take().splitlines()
    assert b"back" == back
    assert b"dropped %d" % (4001 - len(unread)) == report
    reader.writer.close(within=0)
    os.close(reader.read)
    os.close(write)


def test_lines_stay_whole_where_another_process_made_the_descriptor_non_blocking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "_reopened", _refused)
    read, write = os.pipe()
    os.set_blocking(write, False)
    reader = Reader(write, read)
    with suppress(BlockingIOError):
        while True:
            os.write(write, LINE)
    lines = [b"%06d" % number + LINE for number in range(100)]
    for line in lines:
        reader.writer.write(line)

    assert reader.take().endswith(b"".join(lines))
    reader.writer.close(within=0)
    os.close(read)
    os.close(write)


def test_a_full_disk_or_a_closed_pipe_costs_the_line() -> None:
    read, write = os.pipe()
    closed = Reader(write, read)
    os.close(read)
    closed.writer.write(LINE)
    assert float("inf") == closed.writer.due
    full = os.open("/dev/full", os.O_WRONLY)
    NonBlockingWriter(sink_for(full), report=closed.report).write(LINE)
    os.close(full)
    os.close(write)
