import json
import sys
from pathlib import Path

import pytest

from dispatcher.cli import app, line_keys
from dispatcher.task_checks import MAX_PAYLOAD, MAX_VARIABLE
from tests.command import Command


def lines(*tasks: object) -> bytes:
    return b"".join(json.dumps(task).encode() + b"\n" for task in tasks)


def test_lines_are_tasks_in_their_order(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "from me")
    content = lines(
        {"command": ["echo", "1"]},
        {
            "command": ["echo", "2"],
            "queue": "q",
            "priority": -1,
            "max-attempts": 2,
            "cwd": "sub",
            "env": {"A": "b"},
            "key": "k",
            "delay": "1.5s",
            "run_timeout": "1s",
            "stall-timeout": "500ms",
            "queue_timeout": "1m",
            "total_timeout": "1h",
            "kill_grace": "2s",
            "kill_signal": "INT",
            "backoff_min": "1s",
            "backoff-max": "1m",
            "cooldown": "0s",
            "max_deferrals": 0,
            "max-orphans": 9,
            "payload": {"x": [1, 2.50]},
            "label": {"team": "data"},
            "notify": True,
        },
        {"command": ["echo", "3"], "env": ["MINE", "C=d"], "label": ["a=b"], "key": None},
    )

    result = command("submit", "--from", "-", stdin=b"\n" + content + b"  \n")

    assert "1\n2\n3\n" == result.stdout
    with command.client() as client:
        first, second, third = (client.task(task_id) for task_id in (1, 2, 3))
    assert first is not None
    assert second is not None
    assert second.notify
    assert third is not None
    assert ("echo", "1") == first.command
    assert ("q", -1, 2, "k") == (second.queue, second.priority, second.max_attempts, second.key)
    assert (f"{Path.cwd()}/sub", {"A": "b"}) == (second.cwd, second.env)
    assert second.created_at + 1_500 == second.run_at
    assert (1_000, 500, 60_000, 3_600_000, 2_000, 2) == (
        *(second.run_timeout_ms, second.stall_timeout_ms, second.queue_timeout_ms),
        *(second.total_timeout_ms, second.kill_grace_ms, second.kill_signal),
    )
    assert (1_000, 60_000, 0, 0, 9) == (
        *(second.backoff_min_ms, second.backoff_max_ms, second.cooldown_ms),
        *(second.max_deferrals, second.max_orphans),
    )
    assert {"x": [1, 2.5]} == json.loads(second.payload or "")
    assert {"team": "data"} == second.labels
    assert ({"MINE": "from me", "C": "d"}, {"a": "b"}) == (third.env, third.labels)


def test_options_of_the_command_line_hold_for_lines_that_leave_them_out(command: Command) -> None:
    Path("tasks.jsonl").write_bytes(
        lines({"command": ["a"]}, {"command": ["b"], "queue": "own", "label": {}})
    )

    command("submit", "--from", "tasks.jsonl", "--queue", "q", "--label", "x=y", "--priority", "3")

    listed = command("list", "--json").json
    assert [("own", {}, 3), ("q", {"x": "y"}, 3)] == [
        (task["queue"], task["labels"], task["priority"]) for task in listed
    ]


def test_json_answers_for_every_line(command: Command) -> None:
    command("submit", "--key", "k", "--", "a")
    content = lines({"command": ["c"], "key": "l"}, {"command": ["b"], "key": "k"})

    answers = command("submit", "--from", "-", "--json", stdin=content).json

    assert [
        {"id": 2, "created": True, "differs": []},
        {"id": 1, "created": False, "differs": ["command"]},
    ] == answers
    message = command("submit", "--from", "-", stdin=content).stderr
    assert (
        "task 1 has this key already, with another command; its line was not submitted" in message
    )


def test_a_line_beyond_the_remembered_keys_may_wait_for_one_that_is_repeated(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_keys, "_MOST_KEYS", 1)
    one = {"command": ["a"], "key": "one"}
    content = lines({"command": ["a"], "key": "k"}, one, {"command": ["b"], "after": "one"}, one)

    found = command("submit", "--from", "-", stdin=content)

    assert ["1", "2", "3", "2"] == found.stdout.split()


def test_a_key_of_an_earlier_line_with_other_work_refuses_the_file(command: Command) -> None:
    first = {"command": ["a"], "key": "k"}
    for other, what in (
        ({"command": ["b"]}, "command"),
        ({"payload": 1}, "payload"),
        ({"command": ["b"], "payload": 1}, "command and payload"),
    ):
        content = b"# two\n" + lines(first, {**first, **other})
        message = command("submit", "--from", "-", stdin=content, exits=2).stderr
        expected = f"dispatcher: line 3: has the key of line 2, with another {what};"
        assert f"{expected} new work needs a new key\n" == message
    assert [] == command("list", "--json").json
    elsewhere = lines(first, first, {**first, "command": ["b"], "queue": "q"})
    first_id, again, other_id = command("submit", "--from", "-", stdin=elsewhere).stdout.split()
    assert first_id == again != other_id


def test_a_line_may_be_urgent(command: Command) -> None:
    content = lines({"command": ["a"], "urgent": True}, {"command": ["b"], "urgent": False})
    command("submit", "--from", "-", "-p", "3", stdin=content)

    priorities = [command("show", one, "--json").json["priority"] for one in (1, 2)]
    assert [1000, 3] == priorities
    both = lines({"command": ["a"], "urgent": True, "priority": 1})
    message = command("submit", "--from", "-", stdin=both, exits=2).stderr
    assert "line 1: urgent: sets the priority too; give one of them" in message


@pytest.mark.parametrize(
    ("source", "payload"),
    [
        *(("-", "-"), ("-", "@-"), ("/dev/stdin", "-"), ("-", "@/dev/stdin")),
        *(("/dev/./stdin", "-"), ("/proc/self/fd/../fd/0", "@link"), ("/dev/fd/0", "-")),
    ],
)
def test_two_options_that_read_stdin_are_refused(
    command: Command, source: str, payload: str
) -> None:
    Path("link").symlink_to("/dev/stdin")
    words = ("--from", source, "--payload", payload)
    message = command("submit", *words, stdin=b"echo a\necho b\n", exits=2).stderr
    assert "--from and --payload both read stdin; give one a file" in message
    assert [] == command("list", "--json").json
    Path("tasks").write_text('{"command": ["true"]}\n')
    command("submit", "--from", "tasks", "--payload", "-", stdin=b"1")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("hold", "-q", "default"), 0),
        (("submit", "--from", "-"), 0),
        (("submit", "--payload", "-", "--", "true"), 2),
    ],
)
def test_a_stdin_that_is_closed_holds_nothing(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    command("submit", "--from", "-", stdin=b"true\n" * 21)
    monkeypatch.setattr(sys, "stdin", None)

    assert code == app.run(words)
    sys.stdin.close()


def test_a_byte_order_mark_at_the_start_of_a_file_is_skipped(command: Command) -> None:
    command.configure(
        f'[profiles.print]\ncommand = ["echo", "{{what}}"]\nenv_file = "{Path.cwd()}/env"'
    )
    text = command.config_file.read_text("utf-8")
    command.config_file.write_text(text, "utf-8-sig")
    Path("env").write_text("A=1\n", "utf-8-sig")
    Path("job.json").write_text('{"what": "hello"}\n', "utf-8-sig")
    Path("lines").write_text('{"command": ["true"]}\n', "utf-8-sig")

    assert f"{command.config_file}: ok\n" == command("check-config").stdout
    first = command("submit", "--profile", "print", "--payload", "@job.json").id
    second = command("submit", "--from", "lines").id

    shown = command("show", first, "--json").json
    assert (["echo", "hello"], {"what": "hello"}) == (shown["command"], shown["payload"])
    assert ["true"] == command("show", second, "--json").json["command"]
    with command.client() as client:
        task = client.task(first)
    assert task is not None
    assert '{"what": "hello"}' == (task.payload or "").strip()


def test_a_file_without_lines_submits_nothing(command: Command) -> None:
    Path("none").touch()

    result = command("submit", "--from", "-", stdin=b"\n# a comment\n")
    assert "" == result.stdout
    assert "dispatcher: stdin holds no task: nothing was submitted\n" in result.stderr
    assert [] == command("submit", "--from", "-", "--json", stdin=b"").json
    assert "none holds no task: nothing" in command("submit", "--from", "none").stderr


def test_a_file_of_an_array_is_refused_with_the_way_to_convert_it(command: Command) -> None:
    content = b'[\n  {"command": ["true"]}\n]\n'

    message = command("submit", "--from", "-", stdin=content, exits=2).stderr

    assert message.startswith("dispatcher: line 1: ")
    assert message.endswith("make a line of each item: jq -c '.[]' FILE\n")


# Lines of shell ----------------------------------------------------------------------------


def test_each_line_of_shell_is_a_task(command: Command) -> None:
    content = b"\xef\xbb\xbf# a comment\n\n  echo 'a b' | wc -c  \r\n#another\n{ true; } && ls\n"

    command("submit", "--from", "-", "-q", "ci", "-n", "mine", stdin=content)

    listed = command("list", "--json", "--oldest-first").json
    assert [["sh", "-c", "echo 'a b' | wc -c"], ["sh", "-c", "{ true; } && ls"]] == [
        task["command"] for task in listed
    ]
    assert [("ci", {"name": "mine"})] * 2 == [(task["queue"], task["labels"]) for task in listed]


def test_lines_of_json_may_follow_comments(command: Command) -> None:
    command("submit", "--from", "-", stdin=b'# tasks\n{"command": ["true"]}\n')

    assert ["true"] == command("show", 1, "--json").json["command"]


def test_a_line_may_end_with_a_backslash_that_is_escaped(command: Command) -> None:
    command("submit", "--from", "-", stdin=rb"printf %s \\")

    assert ["sh", "-c", r"printf %s \\"] == command("show", 1, "--json").json["command"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'true\n{"command": ["true"]}\n', "line 2: is JSON, after lines of shell; submit both"),
        (b'{"command": ["true"]}\nmake all\n', "line 2: not JSON: "),
        (b'{"command": ["true"]}\nmake all\n', "submit lines of shell in a file of their own"),
        (b'{"command": ["true"]}\n# a comment\n', "line 2: not JSON: "),
        (b"true\nmake \\\n  all\n", "line 2: ends with a backslash; write each command whole"),
        (b"true\necho \xff\n", "line 2: command: is not UTF-8; encode it so"),
        (b"true\necho \0\n", "line 2: command: holds a NUL character"),
        (b"echo " + b"x" * 131072, "line 1: command: 131084 bytes are more than 131072"),
    ],
)
def test_a_line_that_cannot_be_a_task_is_named_and_nothing_is_submitted(
    command: Command, content: bytes, message: str
) -> None:
    assert message in command("submit", "--from", "-", stdin=content, exits=2).stderr
    assert [] == command("list", "--json").json


def test_no_line_of_shell_is_accepted_where_only_profiles_may_run(command: Command) -> None:
    command.configure("[defaults]\nallow_commands = false")

    message = command("submit", "--from", "-", stdin=b"true\n", exits=2).stderr

    assert "line 1: command: only profiles may be run here" in message


# Names -------------------------------------------------------------------------------------


def test_a_line_may_have_a_name_next_to_the_labels_of_all(command: Command) -> None:
    content = lines({"command": ["a"], "name": "first"}, {"command": ["b"], "label": ["x=y"]})

    command("submit", "--from", "-", "--label", "of=all", "--name", "any", stdin=content)

    assert [{"of": "all", "name": "first"}, {"x": "y"}] == [
        task["labels"] for task in command("list", "--json", "--oldest-first").json
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"comand": ["x"]}, "comand: unknown key; did you mean 'command'?"),
        ({"command": ["x"], "zzz": 1}, "zzz: unknown key; known are: command, profile, queue"),
        ({"queue": "q"}, "command: is empty"),
        ({"command": []}, "command: is empty"),
        ({"command": "true"}, 'command: expected a list, got a text in quotes; write ["true"]'),
        ({"command": "make it"}, """got a text in quotes; write ["sh","-c","make it"]"""),
        ({"command": ["x", 1]}, "command: item 2: expected a text in quotes, got an integer"),
        ({"command": ["x\0"]}, "command: holds a NUL character"),
        ({"command": ["x"], "priority": "1"}, "priority: expected an integer, got a text"),
        ({"command": ["x"], "priority": 2**31}, "priority: must be from"),
        ({"command": ["x"], "max_attempts": 0}, "max_attempts: must be from 1"),
        ({"command": ["x"], "delay": 5}, 'delay: 5 is a plain number; add its unit, e.g. "5s"'),
        ({"command": ["x"], "delay": "soon"}, "delay: 'soon' is not a duration"),
        ({"command": ["x"], "run_timeout": 5}, "run_timeout: 5 is a plain number; add its unit"),
        ({"command": ["x"], "start_timeout": "5s"}, "start_timeout: waits for a first heartbeat"),
        ({"command": ["x"], "kill_signal": "NO"}, "kill_signal: 'NO' is not a signal"),
        ({"command": ["x"], "kill_signal": 0}, "kill_signal: 0 is not a signal"),
        ({"command": ["x"], "kill_signal": 1.5}, "kill_signal: expected an integer or a text"),
        ({"command": ["x"], "env": {"A": "", "B": 1}}, "env: B: expected a text in quotes"),
        ({"command": ["x"], "liveness": "worke"}, "liveness: 'worke' is not process or worker"),
        ({"command": ["x"], "env": ["NOT_SET_HERE"]}, "env: NOT_SET_HERE is not set here"),
        (
            {"command": ["x"], "env": {f"A{n}": "a" * 120_000 for n in range(9)}},
            "env: more than 1048576 bytes in",
        ),
        (
            {"command": ["x"], "env": {"A": "a" * (MAX_VARIABLE - 1)}},
            "env A: 131072 bytes with its name are more than 131071; use the payload, or name a",
        ),
        ({"command": ["x"], "env": {"A": "\0"}}, "env A: holds a NUL character"),
        ({"command": ["x"], "label": ["a=1", "a=2"]}, "label: a is given twice; give it once"),
        ({"command": ["x"], "label": {}, "labels": {}}, "label: is given twice; give it once"),
        (
            {"command": ["x"], "label": {"name": "foo"}, "name": "bar"},
            "label: the option name sets the label name too; give one of them",
        ),
        ({"command": ["x"], "env": ["A=1", "A=2"]}, "env: A is given twice; give it once"),
        ({"command": ["x"], "label": ["a"]}, "label: 'a' has no value"),
        (
            {"command": ["x"], "label": {str(n): "" for n in range(65)}},
            "65 labels are more than 64",
        ),
        ({"command": ["x"], "cwd": "\0"}, "cwd: holds a NUL character"),
        ({"command": ["x"], "payload": "x" * MAX_PAYLOAD}, "payload: 1048578 bytes are more than"),
        (
            ["x"],
            """{"command": ["true"]}; make a line of each item: jq -c '.[]' FILE""",
        ),
    ],
)
def test_a_mistake_in_a_line_names_it_and_nothing_is_submitted(
    command: Command, line: object, message: str
) -> None:
    content = lines({"command": ["true"]}, {"command": ["true"]}, line, {"command": ["true"]})

    result = command("submit", "--from", "-", stdin=content, exits=2)

    assert f"dispatcher: line 3: {message}" in result.stderr or (
        "line 3: " in result.stderr and message in result.stderr
    )
    assert 1 == len(result.stderr.splitlines())
    assert [] == command("list", "--json").json


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"command": ["\\ud800"]}', "line 1: not JSON: \\ud800 is half of a surrogate pair"),
        (b"{", "line 1: not JSON: it ends too early"),
        (b"{'a': 1}", "line 1: not JSON: object keys must be strings"),
        (b'{"command": ["\xff"]}', "line 1: command: "),
        (b'{"command": ["x"], "payload": "\xff"}', "line 1: payload: is not UTF-8"),
        (b"[" * 100_000, "line 1: "),
    ],
)
def test_a_line_that_is_not_json_is_reported(command: Command, line: bytes, message: str) -> None:
    assert message in command("submit", "--from", "-", stdin=line, exits=2).stderr
