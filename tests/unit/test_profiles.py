"""`[profiles.NAME]`: the command, the defaults and the refusals of a submit."""

import signal
from pathlib import Path
from typing import Any

import pytest

from dispatcher.config import template
from dispatcher.config.config import Config, load
from dispatcher.errors import InvalidTask
from dispatcher.submission import new_task

FILE = """
[defaults]
allow_commands = false
[queues.images]
priority = 5
max_attempts = 7
[profiles.resize]
command = ["convert", "{input}", "-resize", "{size}x{size}", "{{}}"]
queue = "images"
max_attempts = 2
cwd = "/srv"
env = { LEVEL = "3", MODE = "fast" }
exit_codes = { "3" = "deferred", "0" = "failed" }
lost = "orphan"
leftovers = "report"
kill_signal = "INT"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "dispatcher.toml"
    file.write_text(FILE)
    return load(str(file), {"HOME": "/home/somebody"})


def test_a_profile_gives_command_and_defaults_and_its_queue_gives_the_rest(config: Config) -> None:
    payload = '{"input": "a b; rm -rf $HOME", "size": 1.50, "more": [1]}'
    options: Any = {"profile": "resize", "payload": payload, "env": {"MODE": "slow"}}
    task = new_task(config, (), options)

    assert ("convert", "a b; rm -rf $HOME", "-resize", "1.50x1.50", "{}") == task.command
    assert ("images", 5, 2, "/srv") == (task.queue, task.priority, task.max_attempts, task.cwd)
    assert {"LEVEL": "3", "MODE": "slow"} == task.env
    assert payload == task.payload
    assert ("resize", signal.SIGINT) == (task.profile, task.kill_signal)
    codes = {"3": "deferred", "0": "failed"}
    assert {**codes, "lost": "orphaned", "leftovers": "report"} == task.rules
    task = new_task(config, (), {**options, "queue": "other", "cwd": "/tmp", "max_attempts": 9})
    assert ("other", 0, 9, "/tmp") == (task.queue, task.priority, task.max_attempts, task.cwd)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (["true"], {}, "command: only profiles may be run here; known are: resize; add --profile"),
        (["true"], {"profile": "resize"}, "command: profile 'resize' brings its own; leave the"),
        ([], {"profile": "resise"}, "profile: there is no 'resise'; did you mean 'resize'?"),
        ([], {"profile": "zzz"}, "profile: there is no 'zzz'; known are: resize"),
        ([], {}, "payload: is missing; give a JSON object with input, size, which the command"),
        ([], {"payload": "[]"}, "payload: is not a JSON object; give one with input, size, which"),
        ([], {"payload": "{"}, "payload: not JSON"),
        ([], {"payload": '{"inputs": 1}'}, "no 'input', which the command needs; did you mean"),
        ([], {"payload": '{"input": [1], "size": 1}'}, "payload: 'input' must be a text, a number"),
        ([], {"payload": '{"input": null, "size": 1}'}, "payload: 'input' must be a text"),
        ([], {"payload": '{"input": "\\u0000", "size": 1}'}, "command: holds a NUL character"),
    ],
)
def test_a_payload_that_does_not_fit_the_profile_is_refused_with_the_remedy(
    config: Config, command: list[str], options: Any, message: str
) -> None:
    if not command:
        options = {"profile": "resize", **options}

    with pytest.raises(InvalidTask) as error:
        new_task(config, command, options)

    assert message in str(error.value)


@pytest.mark.parametrize(
    ("template_", "payload", "command"),
    [
        (["a{x}b{x}"], '{"x": "{x}"}', ("a{x}b{x}",)),
        (["{{x}}", "{x}"], '{"x": true}', ("{x}", "true")),
        (["{x}"], '{"x": 12345678901234567890123}', ("12345678901234567890123",)),
        (["{x}"], '{"x": ""}', ("",)),
        (["plain"], None, ("plain",)),
        (["plain"], "[1]", ("plain",)),
    ],
)
def test_an_argument_stays_one_argument(
    template_: list[str], payload: str | None, command: tuple[str, ...]
) -> None:
    assert command == template.fill(template_, payload)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "command = 'true'",
            ":2: profiles.p.command: expected a list, got a text in quotes; write",
        ),
        ("command = []", ":2: profiles.p.command: expected a list that is not empty"),
        ("command = ['']", ":2: profiles.p.command: its program is empty"),
        ("command = ['a', '{x']", ":2: profiles.p.command: '{x' has a lone brace; write {key}, or"),
        ("comand = ['a']", ":2: profiles.p.comand: unknown key; did you mean 'command'?"),
        ("queue = 'q'", ":1: profiles.p: "),
        (
            "command = ['a']\nexit_codes = { x = 'held' }",
            ":3: profiles.p.exit_codes: 'x' is not an exit code",
        ),
        (
            "command = ['a']\nexit_codes = { '256' = 'held' }",
            "'256' is not an exit code; write one from",
        ),
        (
            "command = ['a']\nexit_codes = { '3' = 'hold' }",
            ":3: profiles.p.exit_codes: 'hold' is not",
        ),
        (
            "command = ['a']\ncwd = 'here'",
            ":3: profiles.p.cwd: 'here' is not absolute; begin it with",
        ),
        (
            "command = ['a']\ncwd = \"/a\\nb\"",
            ":3: profiles.p.cwd: '/a\\nb' holds a line break or another control character; rename",
        ),
        ("command = ['a']\nlost = 'never'", ":3: profiles.p.lost: 'never' is not \"attempt\" or"),
    ],
)
def test_r64_a_mistake_in_a_profile_is_reported_with_place_and_remedy(
    tmp_path: Path, keys: str, message: str
) -> None:
    file = tmp_path / "dispatcher.toml"
    file.write_text(f"[profiles.p]\n{keys}\n")

    assert message in "\n".join(load(str(file), {"HOME": "/home/somebody"}).mistakes)
