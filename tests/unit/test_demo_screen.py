"""The screen of the demo: a live table, or a line for each piece of news."""

from io import StringIO
from xml.etree import ElementTree as ET

from rich.console import Console

from dispatcher.demo.proof import ProofCheck
from dispatcher.demo.screen import Screen, TaskRow

FIRST = [
    TaskRow("files", "are compressed", "1 of 8", "", news="0"),
    TaskRow("silent", "x", "ready", ""),
]
THEN = [
    TaskRow("files", "are compressed", "2 of 8", "", news="0"),
    TaskRow("silent", "x", "running", ""),
]


def shown(*, terminal: bool) -> str:
    console = Console(file=StringIO(), force_terminal=terminal, width=80)
    with Screen(console) as screen:
        screen.show(FIRST)
        screen.show(FIRST)
        screen.write("a sentence")
        screen.show(THEN)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_without_a_terminal_each_piece_of_news_is_a_line() -> None:
    assert [
        "  files: 1 of 8",
        "  silent: ready",
        "a sentence",
        "  silent: running",
    ] == shown(terminal=False).splitlines()


def test_on_a_terminal_the_table_holds_the_latest_of_everything() -> None:
    last = shown(terminal=True).rpartition("what it does")[2]

    assert ["2 of 8" in last, "running" in last, "1 of 8" in last] == [True, True, False]


def test_the_picture_shows_the_lines_and_the_table_of_that_moment() -> None:
    with Screen(Console(file=StringIO())) as screen:
        screen.write("first")
        screen.show(FIRST)
        screen.show(THEN)
        screen.write("in the middle")
        screen.write("[green]ok[/] last")
    picture = screen.picture()

    words = "".join(ET.fromstring(picture).itertext()).replace("\xa0", " ")
    places = [words.index(word) for word in ("first", "2 of 8", "in the middle", "ok last")]
    assert sorted(places) == places
    assert "1 of 8" not in words
    assert 1 == words.count("2 of 8")
    assert "url(http" not in picture
    assert picture == screen.picture()


def test_a_promise_that_was_not_kept_is_reported_as_failed() -> None:
    kept, broken = ProofCheck("runs", 1, 1), ProofCheck("runs", 1, 2)

    assert (True, False) == (kept.kept, broken.kept)
    assert "FAILED" in str(broken)
    assert str(broken).endswith("runs: promised 1, got 2")
