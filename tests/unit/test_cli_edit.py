from pathlib import Path

import pytest

from tests.command import Command


def test_every_option_reaches_the_task(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "from me")
    given = ("--env", "OLD=1", "--label", "old=1", "--run-timeout", "9s", "--kill-signal", "INT")
    task_id = command("submit", *given, "--", "true").id

    printed = command(
        *("edit", task_id, "-q", "ci", "-p", "5", "--max-attempts", "9", "--cwd", "sub"),
        *("--env", "A=b=c", "--env", "MINE", "--unset-env", "OLD", "-l", "team=data", "-n", "me"),
        *("--unset-label", "old", "--lease-ttl", "2s", "--stall-timeout", "3s"),
        *("--queue-timeout", "4s", "--total-timeout", "1h", "--kill-grace", "0s"),
        *("--kill-mode", "leader", "--unset", "run-timeout", "--unset", "kill-signal"),
        *("--backoff-min", "1s", "--backoff-max", "1m", "--cooldown", "0s"),
        *("--max-deferrals", "0", "--max-orphans", "9"),
        *("--", "sh", "-c", "exit 3", "--", "--queue"),
    ).stdout

    assert f"{task_id} edited\n" == printed
    with command.client() as client:
        task = client.task(task_id)
    assert task is not None
    assert ("sh", "-c", "exit 3", "--", "--queue") == task.command
    assert ("ci", 5, 9, f"{Path.cwd()}/sub") == (
        *(task.queue, task.priority, task.max_attempts, task.cwd),
    )
    assert {"A": "b=c", "MINE": "from me"} == task.env
    assert {"team": "data", "name": "me"} == task.labels
    assert (2_000, None, 3_000, 4_000, 3_600_000, 0, None, "leader") == (
        *(task.lease_ttl_ms, task.run_timeout_ms, task.stall_timeout_ms, task.queue_timeout_ms),
        *(task.total_timeout_ms, task.kill_grace_ms, task.kill_signal, task.kill_mode),
    )
    assert (1_000, 60_000, 0, 0, 9) == (
        *(task.backoff_min_ms, task.backoff_max_ms, task.cooldown_ms),
        *(task.max_deferrals, task.max_orphans),
    )


def test_a_delay_is_set_and_ended(command: Command) -> None:
    task_id = command("submit", "--", "true").id

    command("edit", task_id, "--delay", "2h")
    assert "scheduled" == command("show", task_id, "--json").json["state"]
    command("edit", task_id, "--delay", "0s")
    assert "ready" == command("show", task_id, "--json").json["state"]


def test_json_names_what_was_done(command: Command) -> None:
    task_id = command("submit", "--", "true").id

    assert [{"id": task_id, "was": "ready", "done": True}] == command(
        "edit", task_id, "--urgent", "--json"
    ).json
    assert 1000 == command("show", task_id, "--json").json["priority"]


def test_filters_choose_and_options_change(command: Command) -> None:
    for queue in ("nightly", "nightly", "ci"):
        command("submit", "-q", queue, "-l", f"of={queue}", "--", "true")
    command("cancel", 2)

    dry = command("edit", "--in-queue", "nightly", "-q", "daily", "--dry-run").stdout
    assert "would edit: 1 task (1 ready)" in dry
    assert "1 edited\n" == command("edit", "--in-queue", "nightly", "-q", "daily").stdout
    assert "3 edited\n" == command("edit", "--with-label", "of=ci", "-l", "seen=yes").stdout
    assert "1 edited\n2 edited\n" == command("edit", "1", "2", "-p", "3").stdout

    listed = command("list", "--json", "--oldest-first").json
    assert [("daily", 3), ("nightly", 3), ("ci", 0)] == [
        (task["queue"], task["priority"]) for task in listed
    ]
    assert {"of": "ci", "seen": "yes"} == listed[2]["labels"]


def test_a_filter_that_finds_nothing_is_reported(command: Command) -> None:
    command("submit", "--", "true")

    assert "nothing to edit" in command("edit", "--in-queue", "nightly", "-p", "1").stderr


def test_those_that_stay_are_named_and_the_others_change(command: Command) -> None:
    command("submit", "--run-timeout", "9s", "--", "true")
    command("submit", "--", "true")
    command("submit", "--", "true")
    command("claim", "--task", 3, "--lock-file", "lock")

    message = command("edit", 1, 2, 3, 7, "--total-timeout", "5s", exits=1)

    assert "2 edited\n" == message.stdout
    first, third, seventh = message.stderr.splitlines()
    assert "task 1: run_timeout: 9s is longer than total_timeout (5s), which would come" in first
    assert "task 3 is running, and keeps what it began with; `dispatcher hold 3` ends its" in third
    assert "no task 7; `dispatcher list` shows those there are" in seventh
    command("complete", "--task", 3, "--lock-file", "lock")
    assert "task 3 has succeeded; submit another" in command("edit", 3, "-p", 1, exits=1).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--priority", "5"], "Missing argument 'ID...'"),
        (["--queue", "ci", "--priority", "5"], "Missing argument 'ID...'"),
        (["1", "--"], "command: is empty; name a program"),
        (["1", "--queue", "a b"], "queue: 'a b' is not a name"),
        (["1", "--env", "NOT_SET_HERE"], "env: NOT_SET_HERE is not set here"),
        (["1", "--env", "A=1", "--unset-env", "A"], "env: A is given twice; give it once"),
        (["1", "-l", "a=1", "--unset-label", "a"], "label: a is given twice; give it once"),
        (
            ["1", "--unset", "run-timeout", "--run-timeout", "1h"],
            "--unset run-timeout and --run-timeout contradict; give one of them",
        ),
        (["1", "--name", " "], "name: is empty; leave it out"),
        (["1", "--unset", "queue"], "Invalid value for '--unset'"),
        (["1", "--run-timeout", "0s"], "run_timeout: must be above 0"),
    ],
)
def test_a_mistake_changes_nothing(command: Command, arguments: list[str], message: str) -> None:
    command("submit", "--", "true")
    before = command("list", "--json").json

    result = command("edit", *arguments, exits=2)

    assert message in result.stderr
    assert before == command("list", "--json").json


def test_values_of_variables_are_not_printed(command: Command) -> None:
    command("submit", "--", "true")

    message = command("edit", 1, 9, "--env", "TOKEN=hunter2", exits=1)

    assert "hunter2" not in message.stdout + message.stderr
    refused = command("edit", 1, "--env", "TOKEN=hunter2\udcff", exits=2)
    assert "hunter2" not in refused.stderr
