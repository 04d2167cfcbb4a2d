"""Bars: who sees them, when, and of what."""

import io
import re
import sys
from pathlib import Path

import pytest

from dispatcher.cli import progress
from tests.command import Command


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def reconfigure(self, **_: object) -> None:
        pass


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal, and everything long; no fixture, since pytest sets stderr later."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_has_room", lambda: True)
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_FRAME", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return terminal


def test_a_bar_shows_how_much_of_how_much_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = watched(monkeypatch)
    with progress.bar("eaten", 4) as report:
        report(1)
        report(3, 5)

    shown = terminal.getvalue()
    assert [("1", "4"), ("3", "5")] == sorted(set(re.findall(r"eaten .*?(\d)/(\d)", shown)))
    assert shown.endswith("\x1b[2K")


def test_lines_that_were_only_read_are_not_counted_as_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = watched(monkeypatch)
    with progress.bar("submitted", None) as report:
        report(1)
        report(3, 5)

    shown = terminal.getvalue()
    assert [("read", "1", "?"), ("submitted", "3", "5")] == sorted(
        set(re.findall(r"(read|submitted) .*?(\d)/(\d|\?)", shown))
    )


@pytest.mark.parametrize("trouble", ["short", "dumb", "pipe"])
def test_nothing_is_shown_where_it_would_not_help(
    monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    terminal = watched(monkeypatch)
    if trouble == "short":
        monkeypatch.setattr(progress, "_PATIENCE", 60.0)
    elif trouble == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    else:
        monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())

    with progress.bar("eaten", 4) as report:
        report(1)

    assert "" == terminal.getvalue()
    if trouble == "pipe":
        assert "" == pipe.getvalue()


def test_commands_that_take_long_show_their_bars(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = Command(tmp_path, capsys, monkeypatch)
    terminal = watched(monkeypatch)
    lines = tmp_path / "many.jsonl"
    lines.write_text('{"command": ["true"]}\n' * 1_200)

    printed = command("submit", "--from", lines).stdout
    command("doctor")
    command("cancel", *range(1, 601))
    command("prune", "--older-than", "0ms", "--state", "cancelled")

    assert 1_200 == len(printed.splitlines())
    bars = (
        *(r"read .*[15]00+/\?", r"submitted .*\d/1200"),
        *(r"checked .*[1-9]\d/[1-9]\d", r"deleted .*\d/600"),
    )
    for bar in bars:
        assert re.search(bar, terminal.getvalue())
