"""`env_file` of a profile: its variables, its mistakes, and no secret in any message."""

from pathlib import Path

import pytest

from dispatcher.config import environment_file
from dispatcher.config.config import Config, load


def config(file: Path, named: str) -> Config:
    toml = file.with_name("dispatcher.toml")
    toml.write_text(f"[profiles.p]\ncommand = ['a']\nenv_file = '{named}'\n")
    return load(str(toml), {"HOME": "/home/somebody"})


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("# a comment\n; another\n\n  \n", {}),
        ("A=1\nB = two words  \n", {"A": "1", "B": "two words"}),
        ("A=x # no comment\r\n", {"A": "x # no comment"}),
        ("A='it is \\n $B #1'\n", {"A": "it is \\n $B #1"}),
        ('A="a \\"b\\" \\\\ \\$ \\n"', {"A": 'a "b" \\ $ \\n'}),
        ("A='one\ntwo'\nB=3", {"A": "one\ntwo", "B": "3"}),
        ('A="one \\\ntwo"\n', {"A": "one two"}),
        (" \tA\t =\t1 \t\r\n", {"A": "1"}),
        ("A=\nB=''\n", {"A": "", "B": ""}),
        ("A=a=b\nA=later\n", {"A": "later"}),
        ("A=$(id) $HOME\n", {"A": "$(id) $HOME"}),
    ],
)
def test_a_line_sets_variables(tmp_path: Path, text: str, variables: dict[str, str]) -> None:
    file = tmp_path / "p.env"
    file.write_text(text, newline="")

    assert {"p": variables} == environment_file.read_all(config(file, str(file))).of


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\n\nhunter2\n", ":3: has no =; write NAME=VALUE"),
        (b"A='1\n2'\nB-C=hunter2\n", ":3: the text before = is not a name of a variable"),
        (b"export A=hunter2\n", ":1: the text before = is not a name of a variable"),
        (b"=hunter2\n", ":1: the text before ="),
        (b"A='hunter2\n", ":1: the quote does not end, or something follows it"),
        (b'A="hunter2"x\n', ":1: the quote does not end, or something follows it"),
        (b"A=hunter2's\n", ":1: a value without quotes has a quote or \\; put the whole"),
        (b"A=hunter2\\\n", ":1: a value without quotes has a quote or \\"),
        (b"DISPATCHER_FENCE=hunter2\n", ":1: DISPATCHER_FENCE is set by the dispatcher itself"),
        (b"A=hunter2\0\n", ":1: A holds a NUL character"),
        # Each would take minutes of a reader that tries every way to part the blanks.
        (b" " * 100_000 + b"hunter2\n", ":1: has no =; write NAME=VALUE"),
        (b"hunter2" + b" " * 100_000 + b"\n", ":1: has no =; write NAME=VALUE"),
        (b"A=hunter2" + b" " * 100_000 + b"'\n", ":1: a value without quotes has a quote or"),
        (b"A=hunter2\xff\n", " is not UTF-8; encode it so"),
        (b"A=" + b"hunter2" * 20_000, " has more than 131072 bytes"),
    ],
)
def test_r64_a_mistake_names_file_line_and_remedy_and_no_value(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "p.env"
    file.write_bytes(content)

    found = environment_file.read_all(config(file, str(file)))

    assert ({}, ["p"]) == (found.of, list(found.unusable))
    [line] = found.unread
    assert f"dispatcher.toml: profiles.p.env_file: {file}{message}" in line
    assert "hunter2" not in line


def test_a_missing_file_is_a_mistake_unless_it_may_be(tmp_path: Path) -> None:
    file = tmp_path / "p.env"

    def unread(named: str) -> str:
        return "".join(environment_file.read_all(config(file, named)).unread)

    assert f"{file} is missing; make it, or write -{file} if it" in unread(str(file))
    assert {"p": {}} == environment_file.read_all(config(file, f"-{file}")).of
    assert "cannot be read: Is a directory" in unread(f"-{tmp_path}")


def test_its_path_is_absolute(tmp_path: Path) -> None:
    [line] = config(tmp_path / "x", "-p.env").mistakes

    assert ":3: profiles.p.env_file: 'p.env' is not absolute" in line
