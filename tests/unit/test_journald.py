"""Log events as records of systemd's journal, against a socket that reads its protocol."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from dispatcher.config.config import Config, load
from dispatcher.executor.log import Log
from dispatcher.logs import logs, records
from dispatcher.logs.catalogue import DAEMON, EXECUTOR
from dispatcher.logs.journald import SOCKET_VARIABLE, Connection
from dispatcher.logs.writer import MOST_QUEUED, RETRY
from dispatcher.times import Instant
from tests.journald import Journald

RUN = {"task_id": 42, "run_id": 50, "attempt": 1, "fence": 2, "queue": "q", "pid": 7}

FAILED = {"outcome": "failed", "reason": "exit code 3", "state": "scheduled", "exit_code": 3}


@pytest.fixture
def journald() -> Iterator[Journald]:
    with Journald() as journald:
        yield journald


def config(tmp_path: Path, form: str) -> Config:
    file = tmp_path / "dispatcher.toml"
    file.write_text(f'[logs]\nformat = "{form}"\n')
    return load(str(file), {"STATE_DIRECTORY": "/v"})


class Stdout:
    """The daemon's stdout in a file; `systemd`: the file is what $JOURNAL_STREAM names."""

    def __init__(self, tmp_path: Path, journald: Journald, form: str, *, systemd: bool) -> None:
        self.now = Instant(0.0)
        self.path = tmp_path / "stdout"
        self._stream = self.path.open("a")
        found = os.fstat(self._stream.fileno())
        stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"} if systemd else {}
        logs.set_up(
            config(tmp_path, form),
            node="n",
            stream=self._stream,
            strict=True,
            environ={**journald.environ, **stream},
            clock=lambda: self.now,
        )

    def read(self) -> str:
        return self.path.read_text()

    def close(self) -> None:
        logs.close(within=0)
        self._stream.close()


@pytest.fixture
def stdout(tmp_path: Path, journald: Journald) -> Iterator[Stdout]:
    stdout = Stdout(tmp_path, journald, "journal", systemd=False)
    yield stdout
    stdout.close()


def test_a_record_has_a_field_for_each_key_and_a_message_that_people_can_read(
    journald: Journald, stdout: Stdout
) -> None:
    structlog.get_logger().warning("lease.expired", ttl_s=1.5, **RUN)
    structlog.get_logger().info("run.settled", signal=None, **RUN, **FAILED)

    first, second = journald.take()
    assert b"4" == first["PRIORITY"]
    assert b"1.5" == first["DISPATCHER_TTL_S"]
    assert (
        b"run.settled task_id=42 run_id=50 attempt=1 fence=2 queue=q pid=7 outcome=failed"
        b" reason='exit code 3' state=scheduled exit_code=3"
    ) == second["MESSAGE"]
    assert {
        "SYSLOG_IDENTIFIER": b"dispatcher",
        "PRIORITY": b"6",
        "DISPATCHER_EVENT": b"run.settled",
        "DISPATCHER_TASK_ID": b"42",
        "DISPATCHER_RUN_ID": b"50",
        "DISPATCHER_REASON": b"exit code 3",
        "DISPATCHER_NODE": b"n",
    }.items() <= second.items()
    assert "DISPATCHER_SIGNAL" not in second
    assert "" == stdout.read()


@pytest.mark.parametrize("form", ["auto", "journal"])
def test_records_are_sent_to_a_stdout_that_is_the_journal_unless_json_is_configured(
    tmp_path: Path, journald: Journald, form: str
) -> None:
    for configured in (form, "json"):
        stdout = Stdout(tmp_path, journald, configured, systemd=True)
        structlog.get_logger().info("daemon.stopped")
        stdout.close()

    (record,) = journald.take()
    assert b"daemon.stopped" == record["MESSAGE"]
    assert stdout.read().startswith('{"timestamp"')


def test_lines_are_written_with_the_reason_if_nobody_takes_the_configured_records(
    tmp_path: Path, journald: Journald
) -> None:
    journald.leave()
    stdout = Stdout(tmp_path, journald, "journal", systemd=False)
    structlog.get_logger().info("daemon.stopped")
    stdout.close()

    unjournaled, stopped = stdout.read().splitlines()
    assert '"event":"log.unjournaled"' in unjournaled
    assert str(journald.path) in unjournaled
    assert '"event":"daemon.stopped"' in stopped

    again = Stdout(tmp_path, journald, "auto", systemd=True)
    structlog.get_logger().info("daemon.stopped")
    again.close()
    assert again.read().splitlines()[-1].startswith('<6>{"timestamp"')
    assert 1 == again.read().count("log.unjournaled")


def test_lines_and_long_values_and_bytes_that_are_not_text_arrive_unchanged(
    journald: Journald, stdout: Stdout
) -> None:
    long = "x" * (1 << 20)
    structlog.get_logger().error("config.refused", mistakes=["one\ntwo", long])
    try:
        int("deep\ninside")
    except ValueError:
        structlog.get_logger().exception(
            "store.refused", operation="a\udcffb", error="\x1b[2Jone\ntwo"
        )

    large, traceback = journald.take()
    assert f'["one\\ntwo","{long}"]'.encode() == large["DISPATCHER_MISTAKES"]
    assert b"\x1b[2Jone\ntwo" == traceback["DISPATCHER_ERROR"]
    first, *lines = traceback["MESSAGE"].decode().splitlines()
    assert r"store.refused operation='a\udcffb' error='\x1b[2Jone\ntwo'" == first
    assert "Traceback (most recent call last):" == lines[0]


def test_a_journal_that_stands_still_costs_lines_beyond_a_bound_and_they_are_counted(
    journald: Journald, stdout: Stdout
) -> None:
    log, lines = structlog.get_logger(), 6000
    for _ in range(lines):
        log.info("daemon.signalled", signal="x" * 400)
    while logs.due() < float("inf"):
        journald.take()
        stdout.now = Instant(stdout.now + RETRY)
        logs.flush(stdout.now)

    *kept, dropped = journald.take()
    assert b"log.dropped" == dropped["DISPATCHER_EVENT"]
    assert lines == len(kept) + int(dropped["DISPATCHER_LINES"])
    assert MOST_QUEUED < sum(len(b"".join(record.values())) for record in kept) + 500 * len(kept)


def test_a_journal_that_was_away_gets_the_lines_logged_meanwhile(
    journald: Journald, stdout: Stdout
) -> None:
    log = structlog.get_logger()
    log.info("daemon.stopped")
    journald.take()
    journald.leave()
    for number in range(3):
        log.info("daemon.started", pid=number, slots=1)
    journald.listen()
    logs.flush(Instant(RETRY))

    assert [b"0", b"1", b"2"] == [record["DISPATCHER_PID"] for record in journald.take()[1:]]


def test_the_executors_lines_are_records_too_and_errors_stay_where_they_are_looked_for(
    tmp_path: Path, journald: Journald
) -> None:
    path = tmp_path / "executor.log"
    with path.open("w") as file:
        log = Log(file.fileno(), form="journal", node="n", environ=journald.environ)
        log("run.inherited", uid="u", pid=None)
        log("executor.refused", error="no room")
        log.close(within=0)

    inherited, refused = journald.take()
    assert (b"dispatcher-executor", b"u", b"n") == tuple(
        inherited[name] for name in ("SYSLOG_IDENTIFIER", "DISPATCHER_RUN", "DISPATCHER_NODE")
    )
    assert b"executor.refused error='no room'" == refused["MESSAGE"]
    (line,) = path.read_text().splitlines()
    assert '"event":"executor.refused"' in line


def test_an_executor_without_a_journal_writes_lines_and_the_reason(
    tmp_path: Path, journald: Journald
) -> None:
    journald.leave()
    path = tmp_path / "executor.log"
    with path.open("w") as file:
        Log(file.fileno(), form="journal", environ=journald.environ).close(within=0)

    assert f'"event":"log.unjournaled","sequence":1,"reason":"{journald.path}: ' in path.read_text()


def test_no_two_keys_of_a_log_share_a_field() -> None:
    for entries in (DAEMON, EXECUTOR):
        keys = {
            "timestamp",
            "event",
            "level",
            "sequence",
            "node",
            "left_out",
            "exception",
            *(name for event in entries.values() for name in (*event.fields, *event.optional)),
        }
        names = {records.name_of(key) for key in keys}
        assert len(keys) == len(names)
        assert not names & {"MESSAGE", "SYSLOG_IDENTIFIER"}


def test_any_key_becomes_a_name_that_journald_takes() -> None:
    assert "DISPATCHER_A_B_C_" == records.name_of("a-b.cé")
    assert 64 == len(records.name_of("x" * 100))


def test_a_connection_waits_for_room_and_not_for_ever_for_a_journal_that_is_away(
    journald: Journald,
) -> None:
    connection = Connection(journald.environ)
    connection.wait(0.001)
    with pytest.raises(BlockingIOError):
        _fill(connection)
    assert connection.absent is None
    journald.take()
    connection.wait(60)
    journald.leave()
    with pytest.raises(BlockingIOError):
        connection.send(b"MESSAGE=x\n")
    assert str(journald.path) in str(connection.absent)
    connection.close()


def _fill(connection: Connection) -> None:
    while True:
        connection.send(b"MESSAGE=x\n")


def test_the_variable_names_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    assert "/run/systemd/journal/socket" == Connection().path


def test_an_instance_logs_under_a_name_of_its_own(tmp_path: Path, journald: Journald) -> None:
    environ = {**journald.environ, "DISPATCHER_INSTANCE": "gpu"}
    with (tmp_path / "log").open("w") as file:
        log = Log(file.fileno(), form="journal", environ=environ)
        log("run.inherited", uid="u", pid=None)
        log.close(within=0)
        logs.set_up(config(tmp_path, "journal"), stream=file, strict=True, environ=environ)
        structlog.get_logger().warning("lease.expired", ttl_s=1.5, **RUN)
        logs.close(within=0)

    names = [record["SYSLOG_IDENTIFIER"] for record in journald.take()]
    assert [b"dispatcher-executor@gpu", b"dispatcher@gpu"] == names
