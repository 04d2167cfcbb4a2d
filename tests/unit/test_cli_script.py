from pathlib import Path

import pytest

from tests.command import Command

SCRIPT = """#!/bin/bash -e
# a comment
#DISPATCHER --queue gpu --max-attempts 5
#DISPATCHER -n 'my job' -l team=data   # and a comment

#DISPATCHERS --queue wrong
echo hello
#DISPATCHER --queue late
"""


def test_the_comments_of_a_script_hold_options(command: Command) -> None:
    Path("job.sh").write_text(SCRIPT)

    task_id = command("submit", "--script", "job.sh", "--", "--epochs", "3", "--queue", "x").id

    with command.client() as client:
        task = client.task(task_id)
    assert task is not None
    assert (f"{Path.cwd()}/job.sh", "--epochs", "3", "--queue", "x") == task.command[2:]
    assert ("/bin/bash", "-e") == task.command[:2]
    assert ("gpu", 5, str(Path.cwd())) == (task.queue, task.max_attempts, task.cwd)
    assert {"name": "my job", "team": "data"} == task.labels


def test_the_command_line_wins(command: Command) -> None:
    Path("job.sh").write_text(SCRIPT)

    given = ("--queue", "cpu", "--max-attempts", "1", "-l", "team=ops", "-l", "a=b")
    task_id = command("submit", *given, "--script=job.sh").id

    shown = command("show", task_id, "--json").json
    assert ("cpu", 1) == (shown["queue"], shown["max_attempts"])
    assert {"name": "my job", "team": "ops", "a": "b"} == shown["labels"]


def test_a_script_may_be_urgent_and_the_command_line_overrides_it(command: Command) -> None:
    Path("job.sh").write_text("#!/bin/sh\n#DISPATCHER --urgent\n")

    first = command("submit", "--script", "job.sh").id
    second = command("submit", "--priority", "-1", "--script", "job.sh").id

    priorities = [command("show", one, "--json").json["priority"] for one in (first, second)]
    assert [1000, -1] == priorities


def test_a_script_of_another_language_runs_by_its_interpreter(command: Command) -> None:
    Path("job.py").write_text("#!/usr/bin/env -S python3 -I\n#DISPATCHER -p 2\nprint(1)\n")

    shown = command("show", command("submit", "--script", "job.py").id, "--json").json

    assert ["/usr/bin/env", "-S python3 -I", f"{Path.cwd()}/job.py"] == shown["command"]
    assert 2 == shown["priority"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "script: job.sh has no #! line"),
        ("#!\n", "script: job.sh has no #! line"),
        ("#!/bin/sh\n#DISPATCHER --queu gpu\n", "script: job.sh:2: No such option '--queu'"),
        ("#!/bin/sh\n#DISPATCHER gpu\n", "script: job.sh:2: 'gpu' does not belong into this line"),
        ("#!/bin/sh\n#DISPATCHER -- true\n", "script: job.sh:2: 'true' does not belong into"),
        ("#!/bin/sh\n#DISPATCHER --\n", "script: job.sh:2: '--' does not belong into this line"),
        (
            "#!/bin/sh\n\n#DISPATCHER --from x\n",
            "script: job.sh:3: '--from' does not belong into a",
        ),
        (
            "#!/bin/sh\n#DISPATCHER --help\n",
            "job.sh:2: '--help' does not belong into a script; give",
        ),
        ("#!/bin/sh\n#DISPATCHER --config x\n", "job.sh:2: '--config' does not belong into a"),
        ("#!/bin/sh\n#DISPATCHER -q x --wait\n", "job.sh:2: '--wait' does not belong into a"),
        ("#!/bin/sh\n#DISPATCHER --json\n", "job.sh:2: '--json' does not belong into a script"),
        (
            "#!/bin/sh\n#DISPATCHER --priority high\n",
            "script: job.sh:2: Invalid value for '--priority'",
        ),
        ("#!/bin/sh\n#DISPATCHER --run-timeout 01:00:00\n", "script: job.sh:2: Invalid value for"),
        ("#!/bin/sh\n#DISPATCHER --env UNSET\n", "script: job.sh:2: env: UNSET is not set here"),
        ("#!/bin/sh\n#DISPATCHER -l team\n", "script: job.sh:2: label: 'team' has no value"),
        ("#!/bin/sh\n#DISPATCHER -n ''\n", "script: job.sh:2: name: is empty; leave it out"),
        ("#!/bin/sh\n#DISPATCHER --script x\n", "script: job.sh:2: '--script' does not belong"),
        ("#!/bin/sh\n#DISPATCHER --name 'a\n", "script: job.sh:2: no closing quotation; close it"),
        ("#!/bin/sh\n#DISPATCHER --queue\n", "script: job.sh:2: Option '--queue' requires an"),
        ("#!/bin/sh\n#DISPATCHER --delay soon\n", "Invalid value for '--delay': 'soon' is not a"),
        ("#!/bin/sh\r\n", "script: job.sh has line ends of Windows; save it with those of Unix"),
    ],
)
def test_a_mistake_in_a_script_is_reported_with_its_line(
    command: Command, text: str, message: str
) -> None:
    Path("job.sh").write_bytes(text.encode())

    result = command("submit", "--script", "job.sh", exits=2)

    assert message in result.stderr
    assert 1 == len(result.stderr.splitlines())
    assert [] == command("list", "--json").json


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--script", "none.sh"], "script: none.sh: No such file or directory; name a file"),
        (["--script", "."], "script: .: Is a directory; name a file to read"),
    ],
)
def test_a_script_that_cannot_be_used_is_refused(
    command: Command, arguments: list[str], message: str
) -> None:
    Path("job.sh").write_text(SCRIPT)

    assert message in command("submit", *arguments, exits=2).stderr


def test_a_word_of_the_command_is_not_a_script(command: Command) -> None:
    task_id = command("submit", "--", "echo", "--script", "none.sh").id

    assert ["echo", "--script", "none.sh"] == command("show", task_id, "--json").json["command"]
