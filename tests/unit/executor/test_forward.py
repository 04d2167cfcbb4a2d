"""Output forwarded to systemd's journal: real files, virtual time, a socket as journald."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.executor.journal import Journal
from dispatcher.executor.output.budgets import LONGEST_INTERVAL, SHORTEST_INTERVAL, Budgets
from dispatcher.executor.output.files import OutputFile
from dispatcher.executor.output.forwarder import (
    LONG,
    MOST_AT_ONCE,
    MOST_ENDED,
    PATIENCE,
    REPORT_INTERVAL,
    Forwarder,
)
from dispatcher.executor.output.quiet_files import QuietFiles
from dispatcher.executor.output.stream import MOST_READ
from dispatcher.executor.records import Header, Starting
from dispatcher.executor.run import TrackedRun
from dispatcher.host.holes import BLOCK
from dispatcher.logs.journald import Connection
from dispatcher.times import NEVER, Instant
from dispatcher.wire import RunUid
from tests.journald import Journald
from tests.recorded_logs import RecordedLog

WHOSE = {"DISPATCHER_TASK_ID": "42", "DISPATCHER_QUEUE": "q"}


class Descriptors:
    """A kernel that only waits for descriptors."""

    def __init__(self) -> None:
        self.watched: list[int] = []

    def watch(self, descriptor: int, *, writable: bool = False) -> None:
        self.watched.append(descriptor)


class Place:
    """A forwarder with its files, and the time by the test."""

    def __init__(self, directory: Path, journald: Journald) -> None:
        self.directory = directory
        self.journald = journald
        self.now = Instant(0.0)
        self.events: list[dict[str, Any]] = []
        self.log: Any = RecordedLog(self.events)
        self.header = Header(boot_id="b", pid_namespace="p")
        self.journal = Journal(str(directory / "executor.journal"), self.header)
        self.runs: dict[str, TrackedRun] = {}
        self.kernel = Descriptors()
        self.forwarder = self.another()
        self.done: list[RunUid] = []

    def another(self) -> Forwarder:
        """Return the forwarder of an executor that begins now."""
        self.journal.rewrite([run.summary(self.now) for run in self.runs.values()], self.now)
        log = self.log
        connection = Connection(self.journald.environ)
        return Forwarder(
            self.journal, log, QuietFiles(self.kernel.watch), node="n", journald=connection
        )

    def follow(self, name: str = "run", *, text: bytes = b"") -> Path:
        path = self.directory / f"{name}.log"
        path.write_bytes(text)
        run = TrackedRun(RunUid(name), str(path), pid=7, task_variables=WHOSE, forwarded=0)
        self.runs[name] = run
        starting = Starting(
            uid=run.uid,
            at=self.now,
            output_path=str(path),
            task_variables=WHOSE,
            forwarded=0,
        )
        self.journal.append(starting)
        self.forwarder.follow(run, None, self.now)
        return path

    def end(self, name: str = "run") -> None:
        self.forwarder.end(RunUid(name), self.now)

    def keep_on(self, seconds: float = 0.0, *, taken: bool = False) -> None:
        """Let time pass, and the forwarder do what is due, as the executor's loop does.

        `taken`: journald reads all the time.
        """
        until = Instant(self.now + seconds)
        while True:
            if taken:
                self.journald.take()
            for descriptor in self.kernel.watched:
                self.forwarder.record_writes([descriptor], self.now)
            if self.forwarder.due <= self.now:
                self.done += self.forwarder.forward(self.now)
                self.journal.flush()
            if min(self.forwarder.due, until) > self.now:
                self.now = min(self.forwarder.due, until)
            elif self.forwarder.due > self.now:
                return

    def messages(self) -> list[bytes]:
        return [record["MESSAGE"] for record in self.journald.take()]

    def events_of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Journald() as journald:
        place = Place(tmp_path, journald)
        yield place
        place.forwarder.close()
        place.journal.close()


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_a_line_is_a_record_by_which_its_run_is_found(place: Place) -> None:
    place.follow(text=b"hello\nwor")
    place.keep_on()

    (record,) = place.journald.take()
    assert {
        "MESSAGE": b"hello",
        "PRIORITY": b"6",
        "SYSLOG_IDENTIFIER": b"dispatcher-task-42",
        "DISPATCHER_TASK_ID": b"42",
        "DISPATCHER_QUEUE": b"q",
        "DISPATCHER_RUN": b"run",
        "DISPATCHER_PID": b"7",
        "DISPATCHER_NODE": b"n",
    } == record


def test_a_file_that_grows_is_looked_at_eight_times_a_second_and_a_quiet_one_not(
    place: Place,
) -> None:
    path = place.follow(text=b"one\n")
    place.keep_on()
    assert LONGEST_INTERVAL == place.forwarder.due
    place.keep_on(LONGEST_INTERVAL)
    assert NEVER == place.forwarder.due

    append(path, b"two\n")
    place.keep_on()
    assert [b"one", b"two"] == place.messages()


def test_the_last_line_of_a_gone_run_is_sent_and_its_file_given_back(place: Place) -> None:
    path = place.follow(text=b"one\ntwo")
    place.keep_on(1)
    assert place.forwarder.is_behind(RunUid("run"))
    append(path, b"!")
    place.end()
    place.keep_on()

    assert [b"one", b"two!"] == place.messages()
    assert b"eof" == place.journald.records[-1]["DISPATCHER_LINE_BREAK"]
    assert (["run"], NEVER) == (place.done, place.forwarder.due)
    assert not place.forwarder.is_behind(RunUid("run"))
    assert [] == place.events


def test_a_flood_is_forwarded_a_bounded_part_at_a_time_and_each_file_has_its_turn(
    place: Place,
) -> None:
    lines = b"".join(b"%07d\n" % number for number in range(MOST_AT_ONCE // 4))
    flood = place.follow("flood", text=lines)
    place.follow("calm", text=b"me too\n")
    assert flood.stat().st_size == 2 * MOST_AT_ONCE
    place.forwarder.forward(place.now)
    assert 0 < (place.runs["flood"].forwarded or 0) <= MOST_READ
    assert SHORTEST_INTERVAL == place.forwarder.due
    place.journald.take()
    place.now = Instant(SHORTEST_INTERVAL)
    place.forwarder.forward(place.now)  # the calm one first, if both did not fit
    assert 7 == place.runs["calm"].forwarded
    place.end("flood")
    place.keep_on(60, taken=True)

    texts = [record["MESSAGE"] for record in place.journald.found(DISPATCHER_RUN="flood")]
    assert lines == b"\n".join(texts) + b"\n"
    assert len(texts) < 100
    assert [] == place.events_of("output.unforwarded")


def test_so_few_records_are_sent_that_journald_drops_none(place: Place) -> None:
    path = place.follow()
    for second in range(30):
        for part in range(8):
            number = second * 8 + part
            append(path, b"".join(b"%d.%d\n" % (number, line) for line in range(100)))
            place.keep_on(LONGEST_INTERVAL, taken=True)

    texts = place.messages()
    assert [b"%d.%d" % (n, line) for n in range(240) for line in range(100)] == b"\n".join(
        texts
    ).split(b"\n")
    assert 1000 < len(texts) < 10_000
    assert [b"0.%d" % line for line in range(100)] == texts[:100]

    place.keep_on(1)
    append(path, b"calm\nagain\n")
    place.keep_on()
    assert [b"calm", b"again"] == place.messages()[-2:]


def test_a_journal_that_is_full_or_away_gets_all_of_it_later_and_once(place: Place) -> None:
    path = place.follow()
    lines = [b"%d" % number for number in range(3000)]
    for number in range(0, 3000, 10):
        append(path, b"".join(line + b"\n" for line in lines[number : number + 10]))
        place.keep_on(LONGEST_INTERVAL)
    waiting = len(lines) * 5 - (place.runs["run"].forwarded or 0)
    assert 0 < waiting
    place.keep_on(LONG)
    held = place.events_of("output.held_back")
    assert [f"no room for {LONG:g} s"] == [event["reason"] for event in held]

    place.keep_on(60, taken=True)
    assert lines == b"\n".join(place.messages()).split(b"\n")

    place.journald.leave()
    append(path, b"last\n")
    place.keep_on(1)
    assert 2 == len(place.events_of("output.held_back"))
    place.journald.listen()
    place.keep_on(1)
    assert b"last" == place.messages()[-1]
    assert [] == place.events_of("output.unforwarded")


def test_a_successor_goes_on_where_its_predecessor_came_to(place: Place) -> None:
    path = place.follow(text=b"one\ntwo\nthr")
    place.keep_on()
    place.forwarder.close()
    append(path, b"ee\n")

    (run,) = Journal(place.journal.path, place.header).predecessors_runs()
    assert (8, WHOSE) == (run.forwarded, run.task_variables)
    place.forwarder = place.another()
    place.forwarder.follow(TrackedRun.taken_over(run), None, place.now)
    place.forwarder.end(run.uid, place.now)
    place.keep_on()

    assert [b"one", b"two", b"three"] == place.messages()


def test_bytes_dropped_before_forwarding_are_counted_and_the_next_whole_line_follows(
    place: Place,
) -> None:
    line = b"x" * 999 + b"\n"
    path = place.follow(text=line)
    place.keep_on()
    append(path, line * 2000)
    budgets = Budgets(place.log, QuietFiles(place.kernel.watch))
    output = OutputFile(str(path), os.open(path, os.O_RDWR))
    budgets.watch(RunUid("run"), output, 1 << 20, place.now)
    budgets.drop(RunUid("run"))
    output.close()
    place.end()
    place.keep_on(60, taken=True)

    (lost,) = place.events_of("output.unforwarded")
    assert ("run", 42) == (lost["uid"], lost["task_id"])
    assert "[output] run_budget dropped it first" == lost["reason"]
    texts = b"\n".join(place.messages()).split(b"\n")
    assert {line[:-1]} == set(texts)
    assert 2001 * 1000 == 1000 * len(texts) + lost["bytes"]
    assert (1 << 20) + BLOCK > (len(texts) - 1) * 1000 > (1 << 20) - 1000


def test_truncated_bytes_are_counted_as_far_as_seen_and_later_lines_are_sent(
    place: Place,
) -> None:
    path = place.follow(text=b"one\ntwo\nthr")
    place.keep_on()
    os.truncate(path, 0)
    append(path, b"new\n")
    place.keep_on(1)
    place.end()
    place.keep_on()

    assert [b"one", b"two", b"new"] == place.messages()
    (lost,) = place.events_of("output.unforwarded")
    assert (3, "its writer truncated the file") == (lost["bytes"], lost["reason"])


def test_a_truncated_file_is_looked_at_once_more_when_its_run_is_gone(place: Place) -> None:
    path = place.follow(text=b"a long line\n")
    place.keep_on()
    place.keep_on(1)
    os.truncate(path, 0)
    append(path, b"new\n")
    place.end()
    place.keep_on()

    assert [b"a long line", b"new"] == place.messages()


def test_losses_that_go_on_are_reported_together(place: Place) -> None:
    path = place.follow()
    for _ in range(20):
        append(path, b"half a line")
        place.keep_on(LONGEST_INTERVAL)
        os.truncate(path, 0)
        place.keep_on(LONGEST_INTERVAL)
    assert 1 == len(place.events_of("output.unforwarded"))
    place.keep_on(REPORT_INTERVAL)
    append(path, b"whole\n")
    place.end()
    place.keep_on()

    assert [11, 19 * 11] == [event["bytes"] for event in place.events_of("output.unforwarded")]
    assert [b"whole"] == place.messages()


def test_the_rest_of_a_run_is_given_up_when_nobody_takes_it_for_long(place: Place) -> None:
    place.journald.leave()
    place.follow(text=b"one\n")
    place.keep_on(10 * PATIENCE)
    assert place.forwarder.is_behind(RunUid("run"))
    place.end()
    place.keep_on(PATIENCE - 1)
    assert [] == place.done
    place.keep_on(2)

    assert ["run"] == place.done
    (lost,) = place.events_of("output.unforwarded")
    assert (4, f"journald took nothing for {PATIENCE:g} s") == (lost["bytes"], lost["reason"])
    assert [str(place.journald.path)] == [
        event["reason"].partition(": ")[0] for event in place.events_of("output.held_back")
    ]


def test_no_more_than_so_many_runs_that_are_gone_hold_a_descriptor(place: Place) -> None:
    place.journald.leave()
    for number in range(MOST_ENDED + 3):
        place.follow(str(number), text=b"one\n")
        place.end(str(number))
    place.keep_on(1)

    assert ["0", "1", "2"] == place.done
    assert 3 == len(place.events_of("output.unforwarded"))


def test_an_executor_that_exits_forwards_for_a_moment_and_leaves_the_rest_to_its_successor(
    place: Place,
) -> None:
    place.follow("a", text=b"one\n")
    place.end("a")

    assert ["a"] == list(place.forwarder.finish(place.now))
    assert [b"one"] == place.messages()

    place.journald.leave()
    place.follow("b", text=b"two\n")
    place.end("b")
    assert [] == list(place.forwarder.finish(place.now))
    assert 0 == place.runs["b"].forwarded
    assert [] == place.events_of("output.unforwarded")


def test_a_file_that_cannot_be_opened_is_reported_and_one_that_is_gone_is_not(
    place: Place,
) -> None:
    directory = place.directory / "d.log"
    directory.mkdir()
    for name in ("d", "gone"):
        run = TrackedRun(RunUid(name), str(place.directory / f"{name}.log"), forwarded=0)
        place.forwarder.follow(run, None, place.now)

    (lost,) = place.events_of("output.unforwarded")
    assert ("d", 0) == (lost["uid"], lost["bytes"])
    assert "it is not a regular file" in lost["reason"]


def test_an_unreadable_output_is_lost_and_the_others_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector under one output ended the executor, and with it every run, again and again."""
    place.follow("bad", text=b"unread\n")
    place.follow("good", text=b"read\n")
    pread = os.pread

    def broken(descriptor: int, size: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("bad.log"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, size, offset)

    monkeypatch.setattr("dispatcher.executor.output.stream.os.pread", broken)
    place.keep_on(1.0, taken=True)

    assert [b"read"] == place.messages()
    (lost,) = place.events
    assert (7, "it cannot be read: Input/output error") == (lost["bytes"], lost["reason"])
