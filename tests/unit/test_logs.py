import errno
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import structlog

from dispatcher.config.config import Config, load
from dispatcher.logs import logs
from dispatcher.logs.repeats import BURST, INTERVAL
from dispatcher.times import Instant

RUN = {"task_id": 7, "run_id": 1, "attempt": 1, "fence": 2, "queue": "q"}


def config(tmp_path: Path, text: str = "") -> Config:
    file = tmp_path / "dispatcher.toml"
    file.write_text(text)
    return load(str(file), {"STATE_DIRECTORY": "/v"})


class Stream(io.StringIO):
    """A stream that may be a terminal, and counts how often it was flushed."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal
        self.flushed = 0

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        self.flushed += 1

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def test_a_line_is_json_with_its_time_its_level_its_event_and_a_sequence(tmp_path: Path) -> None:
    stream = Stream()
    logs.set_up(config(tmp_path), stream=stream, strict=True)

    log = structlog.get_logger().bind(**RUN)
    log.info("run.started", pid=4)
    log.warning("lease.expired", pid=4, ttl_s=1.0)

    first, second = stream.events()
    assert ["timestamp", "level", "event", "sequence"] == list(first)[:4]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["timestamp"])
    assert ("info", "run.started", 7, 2, 4) == tuple(
        first[key] for key in ("level", "event", "task_id", "fence", "pid")
    )
    assert "warning" == second["level"]
    assert first["sequence"] + 1 == second["sequence"]
    assert 2 == stream.flushed


@pytest.mark.parametrize(
    ("form", "terminal", "is_json"),
    [
        ("auto", False, True),
        ("auto", True, False),
        ("json", True, True),
        ("console", False, False),
    ],
)
def test_a_terminal_gets_text_and_every_other_output_json(
    tmp_path: Path, form: str, *, terminal: bool, is_json: bool
) -> None:
    stream = Stream(terminal=terminal)
    logs.set_up(config(tmp_path, f'[logs]\nformat = "{form}"'), stream=stream, strict=True)

    structlog.get_logger().info("daemon.started", pid=1, slots=4)

    line = stream.getvalue()
    assert "daemon.started" in line
    assert is_json == line.startswith("{")
    assert (terminal and not is_json) == ("\x1b[" in line)


def test_a_line_for_people_begins_with_its_subject_and_omits_empty_fields(
    tmp_path: Path,
) -> None:
    drawn, message = Stream(terminal=True), Stream()
    facts = {"outcome": "lost", "state": "ready", "exit_code": None, "reason": "none", **RUN}
    for stream in (drawn, message):
        logs.set_up(config(tmp_path), stream=stream, strict=True)
        structlog.get_logger().info("run.settled", pid=None, **facts)

    line = re.sub(r"\x1b\[[0-9;]*m", "", drawn.getvalue())
    assert line.rstrip().endswith(
        "run.settled task_id=7 outcome=lost state=ready reason=none attempt=1 queue=q run_id=1"
        " fence=2"
    )
    (event,) = message.events()
    assert {"exit_code": None, "pid": None}.items() <= event.items()
    assert ["timestamp", "level", "event", "sequence", "pid"] == list(event)[:5]


def test_in_the_journal_each_line_begins_with_its_priority(tmp_path: Path) -> None:
    with (tmp_path / "stdout").open("w+") as stream:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        logs.set_up(config(tmp_path), stream=stream, environ=environ)
        structlog.get_logger().info("daemon.stopped")
        structlog.get_logger().warning("executor.silent")
        structlog.get_logger().error("config.refused", mistakes=["one\ntwo"])
        written = (tmp_path / "stdout").read_text().splitlines()

    assert ["<6>", "<4>", "<3>"] == [line[:3] for line in written]
    assert ["daemon.stopped", "executor.silent", "config.refused"] == [
        json.loads(line[3:])["event"] for line in written
    ]


@pytest.mark.parametrize(
    ("form", "journal"), [("auto", "8:1"), ("auto", ""), ("auto", "x"), ("json", "")]
)
def test_json_has_no_prefix_if_stdout_is_not_the_journal_or_json_is_configured(
    tmp_path: Path, form: str, journal: str
) -> None:
    with (tmp_path / "stdout").open("w+") as stream:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": journal or f"{found.st_dev}:{found.st_ino + (form == 'auto')}"}
        given = config(tmp_path, f'[logs]\nformat = "{form}"')
        logs.set_up(given, stream=stream, environ=environ)
        structlog.get_logger().info("daemon.stopped")
        assert (tmp_path / "stdout").read_text().startswith("{")


def test_r51_only_events_that_the_catalogue_lists_are_held_back_when_they_repeat(
    tmp_path: Path,
) -> None:
    stream, now = Stream(), Instant(0.0)
    logs.set_up(config(tmp_path), stream=stream, strict=True, clock=lambda: now)
    log = structlog.get_logger()

    for number in range(1000):
        log.warning("lease.refused", task_id=number, error="not_owner")
        log.info("run.started", pid=4, **RUN)
    log.warning("lease.refused", task_id=1, error="superseded")
    events = [event["event"] for event in stream.events()]
    assert (BURST + 1, 1000) == (events.count("lease.refused"), events.count("run.started"))

    now = Instant(INTERVAL)
    log.warning("lease.refused", task_id=1, error="not_owner")
    assert 1000 - BURST == stream.events()[-1]["left_out"]

    log.warning("lease.refused", task_id=1, error="not_owner")
    logs.flush(Instant(INTERVAL + 1))
    assert "lease.refused" == stream.events()[-1]["event"]
    logs.flush(Instant(2 * INTERVAL))
    ceased = stream.events()[-1]
    assert ("error.ceased", "lease.refused", {"error": "not_owner"}, 1) == tuple(
        ceased[name] for name in ("event", "of", "same", "left_out")
    )


@pytest.mark.parametrize(
    ("level", "fields", "message"),
    [
        ("info", {"task_id": 1}, "lacks run_id"),
        ("info", {**RUN, "pid": "4"}, "pid: Expected `int | null`, got `str`"),
        ("info", {**RUN, "pid": 4, "password": "x"}, "has password, which its entry does not"),
        ("error", {**RUN, "pid": 4}, "is error, not info"),
    ],
)
def test_a_line_that_differs_from_its_entry_is_refused_in_strict_mode(
    level: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(logs.NotInCatalogue, match=re.escape(message)):
        getattr(structlog.get_logger(), level)("run.started", **fields)


def test_events_below_the_level_are_not_written(tmp_path: Path) -> None:
    stream = Stream()
    logs.set_up(config(tmp_path, '[logs]\nlevel = "warning"'), stream=stream, strict=True)

    structlog.get_logger().info("daemon.started", pid=1, slots=4)
    structlog.get_logger().error("node.paused", reason="EMFILE", seconds=1.0)

    assert ["node.paused"] == [event["event"] for event in stream.events()]


def test_a_logger_made_before_follows_a_later_set_up(tmp_path: Path) -> None:
    log = structlog.get_logger()
    streams = [Stream(), Stream()]

    for stream in streams:
        logs.set_up(config(tmp_path), stream=stream)
        log.info("config.reloaded")

    assert [1, 1] == [len(stream.events()) for stream in streams]


def test_an_event_outside_the_catalogue_is_refused_where_strict_and_written_elsewhere(
    tmp_path: Path,
) -> None:
    stream = Stream()
    logs.set_up(config(tmp_path), stream=stream, strict=True)
    with pytest.raises(logs.NotInCatalogue, match=r"'run\.strated' is not in the catalogue"):
        structlog.get_logger().info("run.strated")

    logs.set_up(config(tmp_path), stream=stream)
    structlog.get_logger().info("run.strated")

    assert ["run.strated"] == [event["event"] for event in stream.events()]


@pytest.mark.parametrize("name", sorted(logs.SECRET))
def test_a_secret_is_refused_where_strict_and_left_out_elsewhere(tmp_path: Path, name: str) -> None:
    stream = Stream()
    logs.set_up(config(tmp_path), stream=stream, strict=True)
    with pytest.raises(logs.SecretField, match=name):
        structlog.get_logger().bind(**{name: "hunter2"}).info("task.claimed")

    logs.set_up(config(tmp_path), stream=stream)
    structlog.get_logger().bind(**{name: "hunter2"}).info("task.claimed", task_id=1)

    assert "hunter2" not in stream.getvalue()
    assert 1 == stream.events()[0]["task_id"]


def test_any_value_makes_one_line(tmp_path: Path) -> None:
    stream = Stream()
    logs.set_up(config(tmp_path), stream=stream)
    values = {"path": Path("/x"), "broken": "a\udcffb", "lines": "a\nb\u2028c", "error": OSError(5)}

    structlog.get_logger().error("store.refused", **values)
    try:
        int("deep\ninside")
    except ValueError:
        structlog.get_logger().exception("store.refused")

    lines = stream.getvalue().split("\n")
    assert 3 == len(lines)
    assert "/x" == json.loads(lines[0])["path"]
    assert "ValueError: invalid literal" in json.loads(lines[1])["exception"]


def test_a_full_disk_under_the_log_does_not_stop_its_writer(tmp_path: Path) -> None:
    class Full(Stream):
        def write(self, line: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device", line)

    logs.set_up(config(tmp_path), stream=Full(), strict=True)

    structlog.get_logger().info("daemon.stopped")


def test_setting_up_again_reaches_loggers_that_were_used_before(tmp_path: Path) -> None:
    early, late = Stream(), Stream()
    log = structlog.get_logger()
    logs.set_up(config(tmp_path), stream=early)
    log.info("run.started")

    logs.set_up(config(tmp_path, '[logs]\nlevel = "error"'), stream=late)
    log.info("run.started")
    log.error("worker.unkillable")

    assert ["run.started"] == [event["event"] for event in early.events()]
    assert ["worker.unkillable"] == [event["event"] for event in late.events()]


def test_lines_that_a_stopped_reader_missed_are_counted_when_it_is_back(tmp_path: Path) -> None:
    read, write = os.pipe()
    with open(write, "w", encoding="utf-8") as stream:
        logs.set_up(config(tmp_path), stream=stream, strict=True, clock=lambda: Instant(0.0))
        for _ in range(6000):
            structlog.get_logger().info("daemon.signalled", signal="x" * 200)
        os.set_blocking(read, False)
        taken = b""
        while logs.due() < float("inf"):
            taken += os.read(read, 1 << 16)
            logs.flush(Instant(1.0))
        taken += os.read(read, 1 << 16)
        logs.close(within=0)
    os.close(read)

    *kept, dropped = (json.loads(line) for line in taken.splitlines())
    assert ("log.dropped", "warning") == (dropped["event"], dropped["level"])
    assert 6000 == len(kept) + dropped["lines"]
    assert kept[-1]["sequence"] + dropped["lines"] + 1 == dropped["sequence"]
