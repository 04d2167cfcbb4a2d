"""The commands in `--help` can be typed as they are."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dispatcher.cli import app
from tests.command import Command


def examples(verb: str | None) -> list[str]:
    command = app.dispatcher if verb is None else app.dispatcher.get_command(CONTEXT, verb)
    assert command is not None
    assert command.epilog is not None
    return [line.strip() for line in command.epilog.splitlines()[2:]]


CONTEXT = click.Context(app.dispatcher, info_name="dispatcher")

EXAMPLES = [example for verb in (None, *app.VERBS) for example in examples(verb)]


def invocations(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each `dispatcher` in a line of shell, also those in $( )."""
    for inner in re.findall(r"\$\((dispatcher [^)]*)\)", line):
        yield shlex.split(inner)[1:]
    words = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    words.whitespace_split = True
    command: list[str] = []
    for word in (*words, ";"):
        if set(word) <= set(";&|<>"):
            if command[:1] == ["dispatcher"]:
                yield command[1:]
            command = []
        else:
            command.append(word)


def test_each_example_is_found() -> None:
    assert [["list", "--text", "a;b"], ["show", "1"]] == list(
        invocations(
            "true && dispatcher list --text 'a;b' | x; dispatcher show 1 > f  # dispatcher y"
        )
    )
    assert [["claim", "--export"], ["complete"]] == list(
        invocations('eval "$(dispatcher claim --export)"; dispatcher complete')
    )


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_of_a_help_can_be_typed(
    example: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISPATCHER_TASK_ID", "42")  # as after `claim --export`
    monkeypatch.chdir(tmp_path)
    Path("lock.txt").write_text("a lock")
    Path("train.sh").write_text("#!/bin/sh\n#DISPATCHER --queue gpu\n")
    given = list(invocations(example))

    assert given
    for verb, *arguments in given:
        command = app.dispatcher.get_command(CONTEXT, verb)
        assert command is not None
        command.make_context(verb, arguments, parent=CONTEXT)


def test_an_example_with_a_mistake_would_be_found() -> None:
    command = app.dispatcher.get_command(CONTEXT, "list")
    assert command is not None
    with pytest.raises(click.UsageError):
        command.make_context("list", ["--since", "soon"], parent=CONTEXT)


def test_every_verb_is_in_the_help_once_under_a_heading(command: Command) -> None:
    shown = command("--help").stdout
    listed = re.findall(r"^  ([a-z-]+) +[A-Z]", shown, re.MULTILINE)

    assert sorted(app.VERBS) == sorted(verb for verb in listed if verb in app.VERBS)
    assert list(app.GROUPS) == [
        heading
        for heading in re.findall(r"^([A-Z].*):$", shown, re.MULTILINE)
        if heading in app.GROUPS
    ]


@pytest.mark.parametrize("verb", app.VERBS)
def test_a_help_fits_a_narrow_terminal(
    command: Command, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    shown, _, examples = command(verb, "--help").stdout.partition("Examples:")

    assert examples
    assert [] == [line for line in shown.splitlines() if len(line) > 60]
