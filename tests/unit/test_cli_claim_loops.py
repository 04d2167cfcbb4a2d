"""`claim --wait`, and `claim --export` in a loop of a shell."""

import io
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dispatcher.cli import app, exports
from dispatcher.cli.verbs import claim
from dispatcher.client import Client
from dispatcher.errors import StoreUnavailable
from tests.command import Command
from tests.unit.test_cli_drive import exports_of

FALSE = f"{exports.END_OF_LOOP}\n"


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    for name in exports.OF_CLAIM:
        monkeypatch.delenv(name, raising=False)
    return Command(tmp_path, capsys, monkeypatch)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what sets what happens each time that a claim waits."""

    def happens(*steps: Callable[[], object]) -> None:
        left: Iterator[Callable[[], object]] = iter(steps)

        def sleep(_: float) -> None:
            next(left, lambda: pytest.fail("it waits for ever"))()

        monkeypatch.setattr(claim, "sleep", sleep)

    return happens


# Exports -----------------------------------------------------------------------------------


def test_a_claim_exports_payload_command_and_directory(command: Command) -> None:
    given = ("--payload", '{"a": "it\'s"}', "--env", "LEVEL=3")
    command("submit", *given, "--", "echo", "a b", "$HOME")

    exported = exports_of(command("claim", "--export").stdout)

    assert '{"a": "it\'s"}' == exported["DISPATCHER_PAYLOAD"]
    assert str(Path.cwd()) == exported["DISPATCHER_CWD"]
    assert ["env", "LEVEL=3", "echo", "a b", "$HOME"] == shlex.split(exported["DISPATCHER_COMMAND"])


def test_without_a_payload_the_one_of_before_is_unset(command: Command) -> None:
    command("submit", "--", "true")

    printed = command("claim", "--export").stdout

    assert "unset DISPATCHER_PAYLOAD\n" in printed
    assert "true" == exports_of(printed)["DISPATCHER_COMMAND"]


def test_a_payload_that_is_too_long_for_an_environment_stays_in_the_shell(command: Command) -> None:
    text = '"' + "x" * (128 * 1024) + '"'
    command("submit", "--payload", "-", "--", "true", stdin=text.encode())

    printed = command("claim", "--export").stdout

    assert f"unset DISPATCHER_PAYLOAD; DISPATCHER_PAYLOAD='{text}'\n" in printed
    assert "DISPATCHER_PAYLOAD" not in exports_of(printed)


def test_the_variables_that_are_unset_are_those_that_a_claim_sets(command: Command) -> None:
    command("submit", "--payload", "1", "--", "true")

    exported = exports_of(command("claim", "--export").stdout)

    with command.client() as client:
        places = client.config.environment.keys()
    assert {*exports.OF_CLAIM} == exported.keys() - places


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 1),
        (("--queue", "none"), 1),
        (("--queue", "a b"), 2),
        (("--que", "a"), 2),
        (("--task", "7"), 1),
        (("--ttl", "1ms"), 2),
        (("--config", "/nowhere.toml"), 78),
    ],
)
def test_any_failure_ends_a_loop_that_evaluates_exports(
    command: Command, arguments: tuple[str, ...], code: int
) -> None:
    assert FALSE == command("claim", "--export", *arguments, exits=code).stdout
    assert "" == command("claim", *arguments, exits=code).stdout


def evaluated(text: str, *, shell: str = "sh", before: str = "") -> str:
    """Return what a loop prints that evaluates a text until it is false, twice at most."""
    loop = """
        DISPATCHER_TASK_ID=before; left=2
        while [ $left -gt 0 ] && eval "$1"; do
            echo "worked on $DISPATCHER_TASK_ID"; left=$((left - 1))
        done
        echo "ended with ${DISPATCHER_TASK_ID-none}"
    """
    ran = subprocess.run(
        [shell, "-c", before + loop, shell, text], capture_output=True, text=True, check=False
    )
    return ran.stdout


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_claim_that_is_cut_anywhere_never_runs_the_task_of_before(
    command: Command, shell: str
) -> None:
    command("submit", "--env", "A=b c", "--", "echo", "it's")

    printed = command("claim", "--export").stdout

    assert printed.startswith(exports.END_OF_LOOP)
    done = "worked on 1\nworked on 1\nended with 1\n"
    assert done == evaluated(printed, shell=shell)
    assert done == evaluated(printed, shell=shell, before="set -e\n")
    until = len(exports.END_OF_LOOP)
    for length in {*range(until, len(printed) - 3, 17), until, until + 1, len(printed) - 4}:
        assert "worked" not in evaluated(printed[:length], shell=shell), printed[:length]
    assert "ended with none\n" == evaluated(printed[:until], shell=shell)


@pytest.mark.parametrize("options", [(), ("--wait",)])
def test_the_end_of_a_loop_is_printed_before_anything_is_claimed(
    command: Command, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    seen: list[str] = []

    class Killed(BaseException):
        """As a signal: nothing more is printed."""

    def claimed(*_: object, **__: object) -> None:
        seen.append(stdout.getvalue().decode())
        raise Killed

    command("submit", "--", "true")
    stdout = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout))
    monkeypatch.setattr(Client, "claim", claimed)

    with pytest.raises(Killed):
        app.run(["claim", "--export", *options])

    assert [exports.END_OF_LOOP] == seen


def test_help_is_not_a_failure(command: Command) -> None:
    assert "false\n" not in command("claim", "--export", "--help").stdout


# Waiting -----------------------------------------------------------------------------------


def test_a_claim_waits_until_there_is_a_task(
    command: Command, meanwhile: Callable[..., None]
) -> None:
    with command.client() as client:
        meanwhile(
            bool,
            lambda: client.submit(command=["true"], queue="other"),
            lambda: client.submit(command=["true"]),
        )
        claimed = command("claim", "--wait", "--json")

    assert 2 == claimed.json["task_id"]
    assert "dispatcher: nothing to claim in queue 'default'; waiting\n" == claimed.stderr


def test_a_claim_waits_for_a_task_that_is_not_due_and_for_a_paused_queue(
    command: Command, meanwhile: Callable[..., None]
) -> None:
    command("submit", "--delay", "1h", "--", "true")
    with command.client() as client:
        client.pause("default", "upgrade")
        meanwhile(lambda: client.edit(1, delay_ms=0), bool, lambda: client.resume("default"))
        claimed = command("claim", "--task", 1, "--wait", "--json")

    assert 1 == claimed.json["task_id"]
    assert "task 1 is scheduled: delayed by its submitter" in claimed.stderr
    assert 1 == len(claimed.stderr.splitlines())


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (["hold", 1], "task 1 is held: held by an operator; only a ready one can be claimed"),
        (["cancel", 1], "task 1 is cancelled: cancelled by an operator; only a ready one"),
    ],
)
def test_a_claim_does_not_wait_for_what_no_task_does_by_itself(
    command: Command, meanwhile: Callable[..., None], before: list[object], message: str
) -> None:
    command("submit", "--", "true")
    command(*before)
    meanwhile()

    assert message in command("claim", "--task", 1, "--wait", exits=1).stderr
    assert "no task 9" in command("claim", "--task", 9, "--wait", exits=1).stderr


def test_a_claim_stops_waiting_for_a_task_that_is_cancelled(
    command: Command, meanwhile: Callable[..., None]
) -> None:
    command("submit", "--delay", "1h", "--", "true")
    with command.client() as client:
        meanwhile(bool, lambda: client.cancel(1))
        message = command("claim", "--task", 1, "--wait", exits=1).stderr

    assert "task 1 is cancelled: cancelled by an operator; only a ready one" in message


def test_a_claim_waits_while_another_process_writes_for_long(
    command: Command, meanwhile: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Client.claim

    def unavailable(*_: object, **__: object) -> None:
        raise StoreUnavailable("another process has held the write lock for more than 5 s")

    command("submit", "--delay", "1h", "--", "true")
    with command.client() as client:
        monkeypatch.setattr(Client, "claim", unavailable)
        meanwhile(
            bool,
            lambda: monkeypatch.setattr(Client, "claim", claims),
            bool,
            lambda: client.edit(1, delay_ms=0),
        )
        claimed = command("claim", "--wait", "--json")

    assert 1 == claimed.json["task_id"]
    unanswered, nothing = claimed.stderr.splitlines()
    assert "held the write lock for more than 5 s; waiting" in unanswered
    assert "nothing to claim in queue 'default'" in nothing


def test_while_a_claim_waits_no_file_for_its_lock_is_there(
    command: Command, meanwhile: Callable[..., None]
) -> None:
    seen: list[Path] = []
    with command.client() as client:
        meanwhile(
            lambda: seen.extend(Path.cwd().glob("lock*")),
            lambda: client.submit(command=["true"]),
        )
        command("claim", "--wait", "--lock-file", "lock")

    assert [] == seen
    assert Path("lock").exists()


def test_a_wait_that_is_interrupted_claims_nothing_and_ends_a_loop(
    command: Command, meanwhile: Callable[..., None]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meanwhile(interrupt)

    assert FALSE == command("claim", "--wait", "--export", exits=130).stdout
