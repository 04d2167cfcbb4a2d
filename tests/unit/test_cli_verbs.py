import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest

from dispatcher import errors
from dispatcher.calendar import Calendar
from dispatcher.cli import app, failures
from dispatcher.cli.foreign_verbs import MEANT
from dispatcher.cli.verbs.status import status_json
from dispatcher.client import Client
from dispatcher.config.config import load
from dispatcher.errors import StoreUnavailable
from dispatcher.model import Leases, TaskState
from dispatcher.obstacles import Standing
from dispatcher.overview import Status
from dispatcher.times import StoreTime
from tests.command import Command
from tests.reports import report

#: The beginning of all times.
START = Calendar(StoreTime(0), 0)


def test_status_counts_by_state_and_queue_without_a_daemon(command: Command) -> None:
    command.configure("slots = 3")
    command("submit", "--queue", "a", "--", "true")
    command("submit", "--queue", "b", "--", "true")
    command("submit", "--queue", "b", "--delay", "1h", "--", "true")

    status = command("status", "--json").json

    assert ("not running", None, "unknown") == (
        status["daemon"],
        status["daemon_pid"],
        status["executor"],
    )
    assert {"id": None, "hostname": None, "slots": 3, "seen_at": None} == status["node"]
    assert [state.value for state in TaskState] == list(status["states"])
    assert (2, 1, 0) == tuple(status["states"][s] for s in ("ready", "scheduled", "failed"))
    assert (1, 1) == (status["queues"]["a"]["ready"], status["queues"]["b"]["ready"])
    assert 1 == status["queues"]["b"]["scheduled"]


def test_status_for_people(command: Command) -> None:
    assert "no tasks" in command("status").stdout
    command("submit", "--queue", "a", "--", "true")

    shown = command("status").stdout

    assert "daemon    not running\nexecutor  unknown\n" in shown
    assert re.search(r"QUEUE +READY\na +1\n", shown)


def test_status_names_what_runs(command: Command) -> None:
    for _ in range(6):
        command("submit", "--", "true")
    with command.client() as client:
        for _ in range(6):
            client.claim()
        client.heartbeat(2, progress=0.5)

    (line,) = [one for one in command("status").stdout.splitlines() if one[:8] == "running "]
    running = command("status", "--json").json["running"]

    time = r"(\d+\.\ds|\d+m\d\ds)"
    assert re.fullmatch(
        rf"running   1 \({time}\), 2 \({time}, 50 %\), 3 \({time}\), 4 \({time}\),"
        " 2 more: dispatcher list",
        line,
    )
    assert [1, 2, 3, 4, 5, 6] == [one["id"] for one in running]
    assert ("default", 0.5, None) == tuple(
        running[1][name] for name in ("queue", "progress", "outcome")
    )


def test_status_shows_queues_with_work_first_and_states_as_the_list_does(command: Command) -> None:
    for queue in ("default", "default", "b", "c"):
        command("submit", "--queue", queue, "--", "true")
    command.run_once()
    command("cancel", 2, 3)
    command("hold", 4)

    shown = command("status").stdout.partition("QUEUE")[2].splitlines()

    assert ["HELD", "FAILED", "CANCELLED"] == shown[0].split()
    assert ["c", "b", "default"] == [line.split()[0] for line in shown[1:]]


def test_status_passes_on_the_daemons_report(command: Command) -> None:
    standing = Standing(
        calendar=START, paused={}, node=None, daemon="running", report=report(busy=1)
    )
    nothing = Leases(0, None, None, None)
    found = Status(standing=standing, counts={}, ready_since={}, leases=nothing)

    status = status_json(found, load(str(command.config_file)))

    assert ("running", 7, "connected") == tuple(
        status[key] for key in ("daemon", "daemon_pid", "executor")
    )
    assert (
        status["node"].items()
        >= {
            "id": "n",
            "hostname": "h",
            "slots": 2,
            "seen_at": None,
            "busy": 1,
            "stopping": None,
        }.items()
    )
    assert not {"ok", "pid", "executor", "node", "figures"} & status["node"].keys()


def test_check_config_names_the_file_or_every_mistake(command: Command) -> None:
    assert f"{command.config_file}: ok\n" == command("check-config").stdout
    assert str(command.state_dir) == command("check-config", "--json").json["state_dir"]
    command.configure("slotz = 1\n[leases]\nttl = 5")

    result = command("check-config", exits=78)

    first, second = result.stderr.splitlines()
    assert f"dispatcher: {command.config_file}:3: node.slotz: unknown key; did you mean" in first
    assert "leases.ttl: 5 is a plain number" in second


def test_config_shows_each_value_and_its_source(command: Command) -> None:
    command.configure("slots = 3")

    shown = command("config")
    assert re.search(r"\nnode.slots +3 +file\n", shown.stdout)
    assert re.search(r'\nleases.ttl +"1m" +default\n', shown.stdout)
    assert re.search(r"\nmetrics.textfile +\(none\) +d", shown.stdout)
    values = command("config", "--json").json
    assert {"value": 3, "from": "file"} == values["node.slots"]
    assert {"value": "1m", "from": "default"} == values["leases.ttl"]
    assert {"value": "5s", "from": "derived"} == values["leases.reap_interval"]
    assert "#slots = 4\n" in command("config", "--commented").stdout
    assert "properties" in command("config", "--schema").json
    assert "give one" in command("config", "--schema", "--commented", exits=2).stderr


def test_config_stands_before_or_after_the_verb(command: Command, tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    for file in (one, other):
        file.write_text(f'[node]\nstate_dir = "{tmp_path}"')

    def used(*arguments: object) -> str:
        return str(command(*arguments, "--json").json["file"])

    assert str(one) == used("--config", one, "check-config")
    assert str(other) == used("check-config", "--config", other)
    assert str(other) == used("--config", one, "check-config", "--config", other)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidTask("x"), 2),
        (errors.ConfigError("x"), 78),
        (errors.StoreUnusable("x"), 78),
        (errors.StoreUnavailable("x"), 69),
        (errors.CommitUnknown("x"), 74),
        (errors.AlreadyHeld("x"), 75),
        (errors.DispatcherError("x"), 1),
        (FileNotFoundError(2, "No such file or directory", "f"), 1),
        (click.ClickException("x"), 1),
        (click.UsageError("x"), 2),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(error: Any, code: int) -> None:
    message, exit_code = failures.explained(error)

    assert code == exit_code
    assert 1 == len(message.splitlines())


def test_a_store_that_does_not_answer_is_reported_after_the_patience(command: Command) -> None:
    command("submit", "--", "true")
    config = load(str(command.config_file))

    with Client(config) as holder, holder.store.transaction():
        with Client(config, patience=0.05) as client, pytest.raises(StoreUnavailable):
            client.submit(command=["true"])
        assert "ready" == command("show", 1, "--json").json["state"]  # reading waits for nobody


def test_a_damaged_database_is_reported_without_a_traceback(command: Command) -> None:
    command("submit", "--", "true")
    for file in command.state_dir.glob("tasks.db*"):
        file.unlink()
    (command.state_dir / "tasks.db").write_bytes(b"no database " * 1_000)

    result = command("list", exits=78)

    assert result.stderr.startswith(f"dispatcher: {command.state_dir}/tasks.db is damaged")


def test_a_bug_is_one_line_that_names_its_place(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy() -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("dispatcher.cli.verbs.list.open_client", buggy)

    message = command("list", exits=1).stderr

    assert re.fullmatch(
        r"dispatcher: KeyError: 'surprise' \(test_cli_verbs.py:\d+\); a bug: .*\n", message
    )
    monkeypatch.setenv("DISPATCHER_TRACEBACK", "1")
    with pytest.raises(KeyError):
        command("list")


def test_a_service_prints_the_traceback_of_a_bug(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy() -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("dispatcher.cli.verbs.executor.executor_config", buggy)

    message = command("executor", exits=1).stderr

    assert message.startswith("Traceback (most recent call last):\n")
    assert message.endswith("KeyError: 'surprise'\n")


@pytest.mark.parametrize(
    "arguments",
    [["hold", 1], ["pause", "ci"], ["fail", "--task", 1, "--lock", "x"]],
    ids=lambda arguments: arguments[0],
)
def test_an_empty_reason_is_refused_and_nothing_is_done(
    command: Command, arguments: list[object]
) -> None:
    command("submit", "--", "true")

    message = command(*arguments, "--reason", " ", exits=2).stderr

    assert "--reason: is empty; give a reason" in message
    assert "ready" == command("show", 1, "--json").json["state"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "no verb 'lst'; did you mean 'list'? (see: dispatcher --help)"),
        (["frobnicate"], "no verb 'frobnicate' (see: dispatcher --help)"),
        (["kill", "1"], "no verb 'kill'; here it is `dispatcher cancel ID` (see: dispatcher"),
        (
            ["top"],
            "no verb 'top'; here it is `dispatcher edit ID --urgent`, or `dispatcher list -w`",
        ),
        (["switch"], "no verb 'switch'; here it is `dispatcher edit ID --urgent` (see"),
        (["sbatch"], "no verb 'sbatch'; here it is `dispatcher submit --script FILE` (see"),
        (["sotp"], "no verb 'sotp'; did you mean 'stop'? (see: dispatcher --help)"),
        (["submi"], "no verb 'submi'; did you mean 'submit'? (see: dispatcher --help)"),
        (["shop"], "no verb 'shop'; did you mean 'show'? (see: dispatcher --help)"),
        (["stoop-it"], "no verb 'stoop-it' (see: dispatcher --help)"),
        (["cancelled"], "no verb 'cancelled' (see: dispatcher --help)"),
        (["restart", "20"], "unexpected argument (20); to run a task again: dispatcher retry 20"),
        (["stop", "20", "21"], "(20 21); to end a task: dispatcher cancel 20 21 (see: dispatcher"),
        (["show"], "Missing argument 'ID...' (see: dispatcher show --help)"),
        (["show", "x"], "Invalid value for 'ID...'"),
        (["show", "0"], "Invalid value for 'ID...'"),
        (["show", str(2**63)], "Invalid value for 'ID...'"),
        (["cancel"], "Missing argument 'ID...'"),
        (["prune", "--older-than", "1x"], "'1x' is not a duration"),
        (["--config"], "Option '--config' requires an argument (see: dispatcher --help)"),
        (
            ["fail", "--task", "1", "--reason"],
            "Option '--reason' requires an argument (see: dispatcher fail --help)",
        ),
    ],
)
def test_usage_mistakes_are_one_line_with_where_to_look(
    command: Command, arguments: list[str], message: str
) -> None:
    result = command(*arguments, exits=2)

    assert message in result.stderr
    assert 1 == len(result.stderr.splitlines())


def test_the_answer_to_parallel_names_the_file_that_is_read(command: Command) -> None:
    shown = command("parallel", "4", exits=2).stderr

    slots = f"write [node] slots = 4 to {command.config_file}, then `dispatcher reload`"
    assert f"no verb 'parallel'; {slots}" in shown


@pytest.mark.parametrize(("foreign", "ours"), MEANT.items())
def test_every_verb_named_for_one_of_another_program_exists(foreign: str, ours: str) -> None:
    named = re.findall(r"`(?:dispatcher )?([a-z-]+)", f"`dispatcher {ours}`")

    assert named
    assert [] == [verb for verb in named if verb not in app.VERBS]
    assert foreign not in app.VERBS


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--queue"],
        ["list", "--profile"],
        ["list", "--text"],
        ["list", "--label"],
        ["claim", "--queue"],
        ["pause"],
        ["pause", "ci", "--reason"],
        ["resume"],
        ["hold", "1", "--reason"],
        ["heartbeat", "--task", "1", "--lock", "x", "--note"],
        ["fail", "--task", "1", "--lock", "x", "--reason"],
    ],
    ids=" ".join,
)
def test_text_that_is_not_utf8_is_a_usage_mistake_in_any_argument(
    command: Command, words: list[str]
) -> None:
    assert "is not UTF-8; encode it so" in command(*words, "a=\udcff", exits=2).stderr


@pytest.mark.parametrize("words", [["list", "--limit"], ["logs", "1", "--tail"]])
def test_a_count_beyond_all_bounds_is_a_usage_mistake(command: Command, words: list[str]) -> None:
    assert "is not in the range" in command(*words, 99999999999999999999, exits=2).stderr


@pytest.mark.parametrize("verb", [None, *app.VERBS])
def test_every_verb_has_help_with_an_example(command: Command, verb: str | None) -> None:
    shown = command(*([verb] if verb else []), "--help").stdout

    assert "Usage: dispatcher" in shown
    assert f"    dispatcher {verb or 'run'}" in shown or "| dispatcher submit" in shown


def test_help_lists_every_verb_and_no_arguments_show_it(command: Command) -> None:
    result = command(exits=2)

    for verb, (summary, *_) in app.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(summary[:20])}", result.stderr, re.MULTILINE)


def test_json_is_utf8_whatever_the_terminal(command: Command) -> None:
    command("submit", "--", "echo", "grüße")

    assert "grüße" == json.loads(command("list", "--json").stdout)[0]["command"][1]


def test_the_version_is_that_of_the_package(command: Command) -> None:
    assert f"dispatcher {metadata.version('dispatcher')}\n" == command("--version").stdout
