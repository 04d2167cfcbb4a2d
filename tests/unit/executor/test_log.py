import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dispatcher.executor.log import Log
from dispatcher.logs.catalogue import EXECUTOR
from dispatcher.logs.repeats import BURST, INTERVAL
from dispatcher.times import Instant


class Lines:
    """A log in a file, and the time by the test."""

    def __init__(self, directory: Path, environ: Mapping[str, str] | None = None) -> None:
        self.file = directory / "log"
        self.now = Instant(0.0)
        descriptor = os.open(self.file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        found = os.fstat(descriptor)
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"} if environ is None else {}
        self.log = Log(descriptor, node="n", environ=environ, clock=lambda: self.now)

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line[3:]) for line in self.file.read_text().splitlines()]


def test_each_line_has_its_priority_for_the_journal_and_matches_the_catalogue(
    tmp_path: Path,
) -> None:
    lines = Lines(tmp_path)
    lines.log("executor.left", pid=1)
    lines.log("run.inherited", uid="u", pid=None)
    lines.log("journal.write_failed", error="e")

    written = lines.file.read_text().splitlines()
    assert ["<6>{", "<4>{", "<3>{"] == [line[:4] for line in written]
    for number, line in enumerate(lines.read(), start=1):
        assert [] == EXECUTOR[line["event"]].mistakes(line)
        assert ("n", number) == (line["node"], line["sequence"])


def test_without_a_journal_a_line_is_json_alone(tmp_path: Path) -> None:
    lines = Lines(tmp_path, environ={})
    lines.log("executor.left", pid=1)
    assert re.match(r'\{"timestamp":"[^"]+Z","level":"info"', lines.file.read_text())


def test_r51_repetitions_are_held_back_and_counted_and_their_end_is_logged(tmp_path: Path) -> None:
    lines = Lines(tmp_path)
    for _ in range(BURST + 7):
        lines.log("host.short", error="EMFILE")
    lines.now = Instant(INTERVAL)
    assert lines.log.due <= lines.now
    lines.log.catch_up(lines.now)

    assert BURST + 1 == len(lines.read())
    ceased = lines.read()[-1]
    assert ("error.ceased", "host.short", 7) == tuple(
        ceased[name] for name in ("event", "of", "left_out")
    )
    assert [] == EXECUTOR["error.ceased"].mistakes(ceased)


def test_an_executor_that_exits_logs_the_count_of_omitted_lines(tmp_path: Path) -> None:
    lines = Lines(tmp_path)
    for _ in range(BURST + 7):
        lines.log("host.short", error="EMFILE")
    lines.log.report_repetitions()
    assert 7 == lines.read()[-1]["left_out"]
