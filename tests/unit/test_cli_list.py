"""`dispatcher list` for people: what they look for first, on the terminal that they have."""

import io
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dispatcher.cli import app, dashboard, glance, tables
from dispatcher.errors import StoreUnavailable
from dispatcher.execution import Claim, StartedRun
from dispatcher.model import Outcome, Task, TaskState
from dispatcher.store import readers
from dispatcher.store.rows import task_from
from dispatcher.times import StoreTime
from dispatcher.words import Beat
from tests.command import Command

MINUTE = 60_000


class Terminal(io.TextIOWrapper):
    """A stdout that is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        data: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return data.decode()


def on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, *arguments: object, columns: int = 80, lines: int = 24
) -> str:
    """Return what a command prints on a terminal of this size."""
    for name, value in {"COLUMNS": columns, "LINES": lines, "TERM": "xterm", "NO_COLOR": 1}.items():
        monkeypatch.setenv(name, str(value))
    terminal = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        assert 0 == app.run([str(argument) for argument in arguments])
        return terminal.text()


def started(
    command: Command, *, minutes: int = 0, output: bytes | None = None, silent: int = 0
) -> Claim:
    """Claim and start the next task some minutes ago, with an output written to later."""
    output_dir = command.state_dir / "output"
    output_dir.mkdir(exist_ok=True)
    with command.client() as client, client.store.transaction() as now:
        (claim,) = client.store.claim(
            "default", limit=1, node="n", output_dir=str(output_dir), now=now
        )
        begun = StoreTime(now - minutes * MINUTE)
        client.store.record_started([StartedRun(uid=claim.run_uid, pid=4321, at=begun)], now=now)
    if output is not None:
        Path(claim.output_path).write_bytes(output)
        written = time.time() - silent * 60
        os.utime(claim.output_path, (written, written))
    return claim


#: What a time that was short a moment ago may be on a slow host, and two hours to come.
SHORT = r"(\d+\.\ds|\d+m\d\ds)"
AGO = r"(now|\d+ (s|min) ago)"
IN_2_H = r"in (2 h|1 h \d+ min)"


def rows(command: Command, *arguments: object) -> dict[int, str]:
    """Return the rows that `list` prints, whole, by task id."""
    printed = command("list", *arguments).stdout.splitlines()[1:]
    return {int(line.split()[0]): re.sub(r" {2,}", "  ", line) for line in printed}


def test_a_run_shows_its_time_progress_silence_and_last_line(command: Command) -> None:
    for _ in range(3):
        command("submit", "--", "make")
    claim = started(command, minutes=64, output=b"loss 0.3\nloss 0.1\n\n", silent=9)
    started(command, minutes=192, output=b"10 %\r\x1b[32m20 %\x1b[0m", silent=125)
    started(command)
    with command.client() as client, client.store.transaction() as now:
        beat = Beat(task_id=claim.task_id, lock=claim.lock, progress=0.42, note="epoch 3")
        client.store.heartbeat([beat], now=now)

    shown = rows(command)

    progress = r'42 % "epoch 3": loss 0\.1'
    assert re.fullmatch(rf"1  running  default  1h\d\dm  {progress}  make", shown[1])
    assert re.fullmatch(r"2  running  default  3h\d\dm  silent 2 h: 20 %  make", shown[2])
    assert re.fullmatch(rf"3  running  default  {SHORT}  make", shown[3])


def test_a_run_that_ends_or_is_repeated_shows_it(command: Command) -> None:
    command("submit", "--max-attempts", 4, "--", "make")
    command.run_once(state=TaskState.READY)
    claim = started(command, minutes=65)
    with command.client() as client, client.store.transaction() as now:
        client.store.begin_ending(claim.run_uid, Outcome.TIMED_OUT, "too long", now=now)

    assert re.search(r"  1h\d\dm  ends as timed_out; attempt 2 of 4  make", rows(command)[1])


def test_show_prints_how_long_an_open_run_has_taken(command: Command) -> None:
    command("submit", "--", "make")
    started(command, minutes=65)

    assert re.search(r"running +4321 +1 h ago +1h\d\dm", command("show", 1).stdout)


def test_a_local_claim_shows_when_its_lease_ends(command: Command) -> None:
    command("submit", "--", "review")
    command("claim", "--queue", "default", "--ttl", "2h")

    assert re.search(f"a local claim; its lease ends {IN_2_H}", rows(command)[1])


def test_a_task_that_needs_a_person_shows_why_and_its_exit_code(command: Command) -> None:
    for _ in range(3):
        command("submit", "--", "make")
    command.run_once(output=b"cc main.c\nmake: *** Error 2\n")
    command("hold", 2, "--reason", "disk is full")
    command("cancel", 3)

    shown = rows(command)

    assert re.search(
        rf"1  failed  default  {SHORT}  used up its attempts, exit code 3; {AGO}:"
        r" make: \*\*\* Error 2  make",
        shown[1],
    )
    assert "2  held  default  disk is full  make" == shown[2]
    assert "cancelled by an operator; " in shown[3]
    assert [1, 2, 3] == sorted(shown)


def test_a_waiting_task_shows_its_place_and_what_it_waits_for(command: Command) -> None:
    command("submit", "--queue", "b", "--", "one")
    command("submit", "--", "two")
    command("submit", "--priority", 7, "--", "three")
    command("submit", "--delay", "2h", "--", "four")
    command("pause", "b")

    shown = rows(command)

    assert [1, 3, 2, 4] == list(shown)
    assert "queue paused; 1st in line  one" in shown[1]
    assert "daemon not running; 2nd in line  two" in shown[2]
    assert re.search(rf"3  ready  default  7  {SHORT}  daemon not running; 1st in line", shown[3])
    assert re.fullmatch(f"4  scheduled  default  due {IN_2_H}  four", shown[4])


def test_a_ready_task_of_a_queue_for_local_claims_is_not_called_full(
    command: Command,
) -> None:
    command.configure("[queues.review]\nconcurrency = 0\n")
    command("submit", "--queue", "review", "--", "make")

    assert "  for local claims; 1st in line  make" in rows(command)[1]


def test_status_folds_queues_with_nothing_to_do_before_its_head_scrolls_away(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        command("submit", "--queue", f"q{number}", "--", "true")
        if number < 17:
            command("cancel", number + 1)

    small = on_a_terminal(monkeypatch, "status", lines=24).splitlines()
    large = on_a_terminal(monkeypatch, "status", lines=50).splitlines()
    whole = command("status").stdout.splitlines()

    assert len(small) < 24
    assert ["q17", "q18", "q19"] == [line.split()[0] for line in small[-11:-8]]
    assert "and 10 queues with nothing to do" == small[-1]
    assert len(whole) == len(large)
    assert "nothing to do" not in large[-1]


def test_a_task_that_is_over_shows_when_and_its_result(command: Command) -> None:
    command("submit", "--label", "team=data", "--", "true")
    claim = started(command)
    with command.client() as client:
        client.complete(1, lock=claim.lock, result={"lines": 7})
    command.configure("")
    with command.client() as client, client.store.transaction():
        client.store.engine.change(  # type: ignore[attr-defined]
            "UPDATE runs SET outcome = 'succeeded', reason = '', ended_at = claimed_at + 5000"
        )
        client.store.engine.change(  # type: ignore[attr-defined]
            "UPDATE tasks SET state = 'succeeded', run_uid = NULL, finished_at = created_at"
        )

    (shown,) = rows(command).values()
    (listed,) = command("list", "--json").json

    assert re.search(
        rf"1  succeeded  default  5\.0s  {AGO}: \{{\"lines\":7\}}  \[team=data\] true", shown
    )
    assert ("succeeded", None, None, 5.0, {"lines": 7}, {"team": "data"}) == tuple(
        listed[key] for key in ("outcome", "exit_code", "signal", "duration_s", "result", "labels")
    )


def mixed(command: Command) -> None:
    """Submit and run a night's work: 40 tasks."""
    long = ["python", "/srv/project/train.py", "--data", "/srv/data/images", "--epochs", "300"]
    for _ in range(3):
        command("submit", "--", *long)
        started(command, minutes=90, output=b"x" * 300 + b"\n", silent=5)
    for _ in range(4):
        command("submit", "--max-attempts", 1, "--", *long)
        command.run_once(output=b"Traceback\nValueError: " + b"y" * 300 + b"\n")
    for _ in range(17):
        command("submit", "--", "true")
        command.run_once(state=TaskState.SUCCEEDED, outcome=Outcome.SUCCEEDED)
    for _ in range(14):
        command("submit", "--", *long)
    for _ in range(2):
        command("submit", "--delay", "2h", "--", *long)


@pytest.mark.parametrize("columns", [80, 140])
def test_forty_tasks_fit_a_terminal_and_the_last_lines_count_the_omitted(
    command: Command, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    mixed(command)

    *shown, hindrance, total, more = on_a_terminal(
        monkeypatch, "list", columns=columns, lines=50
    ).splitlines()

    assert all(tables.width(line) <= columns for line in shown)
    states = [line.split()[1] for line in shown[1:]]
    groups = ["running"] * 3 + ["failed"] * 4 + ["ready"] * 10 + ["succeeded"] * 10
    assert groups == states
    assert "QUEUE" not in shown[0]
    assert re.search(r"  python /s.*….* 300$", shown[1])
    assert "the daemon is not running: dispatcher run --detach" == hindrance
    assert "40 tasks: 3 running, 4 failed, 14 ready, 2 scheduled, 17 succeeded" == total
    assert "27 of 40; --limit N shows more" == more
    assert 41 + 2 == len(on_a_terminal(monkeypatch, "list", "--limit", 100).splitlines())


def test_a_small_terminal_shows_some_of_each_group_with_what_runs_first(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed(command)

    shown = on_a_terminal(monkeypatch, "list", lines=24).splitlines()

    assert 23 == len(shown)
    states = [line.split()[1] for line in shown[1:-3]]
    assert ["running"] * 3 + ["failed"] * 4 + ["ready"] * 6 + ["succeeded"] * 6 == states
    assert "19 of 40; --limit N shows more" == shown[-1]
    assert 12 == len(on_a_terminal(monkeypatch, "list", lines=5).splitlines())


def test_a_small_terminal_shows_what_is_held_and_counts_the_failures_left_out(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(25):
        command("submit", "--", "true")
    for number in range(1, 6):
        command("hold", number)
    for _ in range(20):
        command.run_once()

    shown = on_a_terminal(monkeypatch, "list", lines=18).splitlines()

    assert 17 == len(shown)
    states = [line.split()[1] for line in shown[1:-4]]
    assert ["held"] * 5 + ["failed"] * 7 == states
    assert "… 13 more failed: --state failed lists them" == shown[-4]
    alone = on_a_terminal(monkeypatch, "list", "--state", "failed", lines=18)
    assert "…" not in alone


def test_the_name_of_a_task_stands_first_and_is_never_cut(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = ["/bin/sh", "-eu", "-c", "test 3 -ne 3; /srv/project/train.py --data /srv/data"]
    command("submit", "-n", "training", "-l", "batch=7", "--", *test)
    command("submit", "--", "true")

    named = r"  training: \[batc.*\] /bin.*….*ta'?$"
    assert re.search(named, on_a_terminal(monkeypatch, "list", "--text", "train").splitlines()[1])
    listed = on_a_terminal(monkeypatch, "hold", "--text", "training", "--dry-run", columns=70)
    assert re.search(named, listed.splitlines()[-1])


def test_a_watched_list_is_drawn_again_and_never_longer_than_the_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed(command)
    frames = iter([None, StoreUnavailable("locked"), None])
    look = dashboard.at_a_glance

    def at_a_glance(*args: object, **kwargs: object) -> object:
        if (error := next(faults, None)) is not None:
            raise error
        return look(*args, **kwargs)  # type: ignore[arg-type]

    def sleep(_: float) -> None:
        if next(frames, "end") == "end":
            raise KeyboardInterrupt

    faults = iter([None, None, None, StoreUnavailable("the store does not answer")])
    monkeypatch.setattr(dashboard, "at_a_glance", at_a_glance)
    monkeypatch.setattr(dashboard.time, "sleep", sleep)

    drawn = on_a_terminal(monkeypatch, "list", "-w", lines=16)

    first, second, *rest = [part.split("\x1b[J")[0] for part in drawn.split("\x1b[H")[1:]]
    lines = [line.removesuffix("\x1b[K") for line in first.splitlines()]
    assert all(tables.width(line) <= 80 for line in lines)
    assert 15 == len(lines)
    assert "10 of 40; --limit N shows more" == lines[-1]
    assert ["running"] * 3 == [line.split()[1] for line in lines[1:4]]
    assert "dispatcher: the store does not answer\x1b[K\n" == second
    assert 2 == len(rest)


@pytest.mark.parametrize("form", [[], ["--json"], ["--json-lines"]])
def test_only_a_terminal_can_be_watched(command: Command, form: list[str]) -> None:
    refused = command("list", "--watch", *form, exits=2).stderr

    assert "--watch: needs a terminal, and prints no JSON" in refused


@pytest.mark.parametrize(
    "options", [(), ("--json",), ("--json-lines",), ("--label", "a=b"), ("--text", "true")]
)
def test_no_list_reads_a_payload(
    command: Command, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    command("submit", "--label", "a=b", "--payload", "[1]", "--", "true")
    seen: list[str | None] = []

    def read(row: Any) -> Task:
        seen.append((task := task_from(row)).payload)
        return task

    monkeypatch.setattr(readers, "task_from", read)
    command("list", *options)

    assert {None} == {*seen}


def test_a_list_by_age_is_not_in_groups(command: Command) -> None:
    for _ in range(4):
        command("submit", "--", "true")
    command.run_once()
    command("hold", 3)

    assert [1, 2, 3, 4] == list(rows(command, "--oldest-first"))
    assert [4, 3, 2, 1] == list(rows(command, "--limit", 2000))
    assert [3, 1, 2, 4] == list(rows(command))
    few = command("list", "--oldest-first", "--limit", 3)
    assert "dispatcher: 3 of 4; --limit N shows more\n" == few.stderr


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("one\ntwo\n\n  \n", "two"),
        ("10 %\r20 %\r", "20 %"),
        ("\x1b[1;31mred\x1b[0m\n", "red"),
        ("\x1b]0;title\x07text\tand more\n", "text and more"),
        ("", ""),
        ("\n\n", ""),
    ],
)
def test_the_last_line_of_an_output_is_the_last_that_is_not_blank(written: str, line: str) -> None:
    assert line == glance.last_line(written)


def test_a_place_is_written_as_people_write_it() -> None:
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)

    places = " ".join(map(glance.ordinal, numbers))

    assert "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 111th" == places
