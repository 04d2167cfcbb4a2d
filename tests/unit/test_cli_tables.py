"""Tables: whole where nobody looks, and legible on every terminal."""

import io
import os
import sys

import pytest

from dispatcher.cli import tables

HEADINGS = ("ID", "STATE", "ATTEMPTS", "REASON", "COMMAND")
ROWS = [
    (1, "succeeded", "0/3", "exit code 0", "true"),
    (
        12345,
        "failed",
        "3/3",
        "used up its attempts, all three of them",
        "sh -c 'exit 1; # no'",
    ),
    (7, "held", "0/3", None, "two\nlines"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(
    monkeypatch: pytest.MonkeyPatch,
    *,
    columns: int | None = None,
    rows: list[tuple[object, ...]] = ROWS,
    **environ: str,
) -> str:
    stdout = io.StringIO() if columns is None else Terminal()
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": str(columns or 80), "TERM": "xterm", **environ}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stdout)
    tables.print_table(HEADINGS, rows, spare=("ATTEMPTS",))
    return stdout.getvalue()


def test_in_a_pipe_lines_are_whole_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [
        "ID     STATE      ATTEMPTS  REASON                                   COMMAND",
        "1      succeeded  0/3       exit code 0                              true",
        "12345  failed     3/3       used up its attempts, all three of them  sh -c 'exit 1; # no'",
        "7      held       0/3                                                two\\nlines",
    ] == printed(monkeypatch).splitlines()


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_on_a_terminal_every_line_fits_and_ids_and_states_are_whole(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    lines = printed(monkeypatch, columns=columns, NO_COLOR="1").splitlines()

    assert all(len(line) <= columns for line in lines)
    shown = [line.split()[:2] for line in lines]
    assert [["ID", "STATE"], ["1", "succeeded"], ["12345", "failed"], ["7", "held"]] == shown


def test_a_narrow_terminal_leaves_out_what_can_be_spared_before_it_cuts_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "ATTEMPTS" in printed(monkeypatch, columns=80, NO_COLOR="1")
    narrow = printed(monkeypatch, columns=58, NO_COLOR="1")
    assert "ATTEMPTS" not in narrow
    assert "used up its attemp…  sh -c 'exit 1; # n…" in narrow


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_colours_are_for_terminals_that_show_them_and_people_who_want_them(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    assert "\x1b[32msucceeded\x1b[0m" in printed(monkeypatch, columns=120)
    assert "\x1b" not in printed(monkeypatch, columns=120, **environ)


def test_wide_characters_are_counted_as_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[object, ...]] = [
        (1, "held", "0/3", "日本語" * 9, "x"),
        (2, "held", "0/3", "e\u0301te", "x"),
    ]

    _, wide, accented = printed(monkeypatch, columns=50, rows=rows, NO_COLOR="1").splitlines()

    assert 6 + 22 == tables.width("日本語" + "a" * 22)
    assert tables.width(wide) <= 50
    assert "…" in wide
    assert tables.width(wide) == tables.width(accented)


def test_a_table_needs_no_rich() -> None:
    """It costs 60 ms."""
    script = (
        "import sys; from dispatcher.cli.tables import print_table;"
        "print_table(['A'], [['b']]); sys.exit('rich' in sys.modules)"
    )

    assert 0 == os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", script)


def drawn(monkeypatch: pytest.MonkeyPatch, columns: int, rows: list[tuple[object, ...]]) -> str:
    """Return a table on a terminal of this width."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    headings = ("ID", "QUEUE", "LABELS", "COMMAND")
    return "\n".join(tables.table(headings, rows, alike=["QUEUE"]))


def test_a_terminal_shows_no_empty_column(monkeypatch: pytest.MonkeyPatch) -> None:
    same = drawn(monkeypatch, 80, [(1, "q", "", "true"), (2, "q", None, "true")])
    one = drawn(monkeypatch, 80, [(1, "q", "", "true")])
    other = drawn(monkeypatch, 80, [(1, "q", "", "true"), (2, "r", "a=b", "true")])

    assert ["ID", "COMMAND"] == same.splitlines()[0].split()
    assert ["ID", "QUEUE", "COMMAND"] == one.splitlines()[0].split()
    assert ["ID", "QUEUE", "LABELS", "COMMAND"] == other.splitlines()[0].split()
    assert ["ID", "QUEUE", "LABELS", "COMMAND"] == drawn(monkeypatch, 80, []).split()


def test_a_command_is_cut_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "python /srv/project/train.py --epochs 300"

    (_, row) = drawn(monkeypatch, 24, [(1, None, None, tables.CommandCell(command))]).splitlines()

    assert "1   python /sr…pochs 300" == row
    assert "日…語" == tables.cut("日本語日本語", 5, in_middle=True)
    assert "…" == tables.cut(command, 1, in_middle=True)
    assert command == tables.cut(command, len(command), in_middle=True)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (80, "training: [batch=7 night=1] /bin/sh -c 'test 3 -ne 3'"),
        (44, "training: [batch=7 night…] /bin/sh …3 -ne 3'"),
        (40, "training: [batch=7 nig…] /bin/sh… -ne 3'"),
        (24, "training: [bat…] /bi… 3'"),
        (14, "training: /bi…"),
        (8, "trainin…"),
    ],
)
def test_the_command_of_a_task_is_cut_before_its_labels_and_name(columns: int, shown: str) -> None:
    work = tables.CommandCell("/bin/sh -c 'test 3 -ne 3'", "training", "batch=7 night=1")

    assert shown == work.cut(columns)
    assert tables.width(shown) <= columns
