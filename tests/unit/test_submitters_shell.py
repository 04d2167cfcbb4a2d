"""What `submit` takes of the shell that it runs in, and what it refuses or reports for it."""

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pysqlite3 import dbapi2

from dispatcher.config.config import load
from dispatcher.environment import Environment
from dispatcher.errors import InvalidTask
from dispatcher.execution import Claim
from dispatcher.host import owner
from dispatcher.host.locks import DAEMON_LOCK, lock_file
from dispatcher.host.owner import Owner
from dispatcher.submission import new_task
from dispatcher.task_checks import MAX_ENVIRONMENT
from tests.command import Command
from tests.unit.test_cli_submit import IDLE

PROFILES = """
[profiles.usual]
command = ["true"]
[profiles.own]
command = ["true"]
umask = "077"
"""


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setenv("TOKEN", "hunter2")
    return Command(tmp_path, capsys, monkeypatch)


@contextmanager
def umask(mode: int) -> Iterator[None]:
    before = os.umask(mode)
    try:
        yield
    finally:
        os.umask(before)


def claimed(command: Command) -> list[Claim]:
    """Claim every task, in order."""
    found = []
    with command.client() as client:
        while (claim := client.claim()) is not None:
            found.append(claim)
    return found


def test_a_command_carries_the_environment_and_umask_of_its_submitter(command: Command) -> None:
    with umask(0o027):
        command("submit", "--", "true")
        assert 0o027 == os.umask(0o027)
    (claim,) = claimed(command)

    assert claim.environment == Environment(os.environ)
    assert ("hunter2", 0o027) == (claim.environment.variables["TOKEN"], claim.umask)
    assert "DISPATCHER_CONFIG" in os.environ
    assert "DISPATCHER_CONFIG" not in claim.environment.variables


def test_a_clean_one_and_a_profile_carry_neither(command: Command) -> None:
    command.configure(PROFILES)
    command("submit", "--clean-env", "--", "true")
    command("submit", "--profile", "usual")
    command("submit", "--profile", "own")

    claims = claimed(command)

    assert [(None, None), (None, None), (None, 0o077)] == [
        (claim.environment, claim.umask) for claim in claims
    ]


def test_by_the_configuration_all_are_clean(command: Command) -> None:
    command.configure('[defaults]\nenvironment = "clean"\n')
    command("submit", "--", "true")
    command("submit", "--from", "-", stdin=b'{"command": ["true"], "clean_env": false}')

    assert [(None, None)] * 2 == [(one.environment, one.umask) for one in claimed(command)]


def test_a_line_decides_for_its_task_whether_it_is_clean(command: Command) -> None:
    command.configure(PROFILES)
    lines = (
        b'{"command": ["true"]}\n{"command": ["true"], "clean_env": true}\n'
        b'{"profile": "usual"}\n{"command": ["true"], "clean-env": false}\n'
    )
    command("submit", "--from", "-", stdin=lines)
    command("submit", "--clean-env", "--from", "-", stdin=lines)

    carrying = [claim.environment is not None for claim in claimed(command)]

    assert [True, False, False, True] == carrying[:4]
    assert [False, False, False, True] == carrying[4:]


def test_a_submit_by_root_as_another_user_has_a_clean_environment(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "_became", [Owner(1000, 1000, Path("/"))])

    command("submit", "--", "true")

    assert [None] == [claim.environment for claim in claimed(command)]


def test_a_variable_that_is_not_utf_8_is_named_and_the_others_are_carried(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATIN", "hunter3\udcff")

    message = command("submit", "--", "true").stderr

    assert "dispatcher: the task does not get the variable LATIN: it is not UTF-8\n" in message
    assert "hunter" not in message
    assert "LATIN" not in command("submit", "--clean-env", "--", "true").stderr
    (claim, _) = claimed(command)
    assert claim.environment is not None
    assert ("hunter2", False) == (
        claim.environment.variables["TOKEN"],
        "LATIN" in claim.environment.variables,
    )


def test_names_are_shown_and_no_value(command: Command) -> None:
    with umask(0o027):
        carrying = command("submit", "--", "true").id
    clean = command("submit", "--clean-env", "--", "true").id

    shown = command("show", carrying, "--json")
    assert "TOKEN" in shown.json["environment"]
    assert ("0027", False) == (shown.json["umask"], shown.json["clean_env"])
    many = len(shown.json["environment"])
    line = f"  shell      {many} variables of its submitter, umask 0027\n"
    assert line in command("show", carrying).stdout
    cleaned = command("show", clean, "--json").json
    assert (None, None, True) == (
        *(cleaned["environment"], cleaned["umask"]),
        cleaned["clean_env"],
    )
    assert "shell" not in command("show", clean).stdout
    texts = [command(*words).stdout for words in (("list", "--json"), ("why", carrying), ("list",))]
    assert [] == [text for text in (*texts, shown.stdout) if "hunter2" in text]


def test_a_damaged_environment_is_shown_as_damaged_and_not_as_empty(command: Command) -> None:
    task_id = command("submit", "--", "true").id
    with closing(dbapi2.connect(command.state_dir / "tasks.db")) as database, database:
        database.execute("UPDATE environments SET variables = '[5]'")

    assert "  shell      its submitter's, damaged by hand\n" in command("show", task_id).stdout
    shown = command("show", task_id, "--json").json
    assert (None, False) == (shown["environment"], shown["clean_env"])


def test_an_environment_beyond_what_a_start_can_carry_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUGE", "x" * MAX_ENVIRONMENT)

    message = command("submit", "--", "true", exits=2).stderr

    assert "environment: more than 1048576 bytes in all; unset what is large, or submit" in message
    command("submit", "--clean-env", "--", "true")


def test_a_line_for_a_shell_is_refused_with_what_to_write(command: Command) -> None:
    Path("my tool").touch()
    Path("bin").mkdir()
    Path("bin/other tool").touch()

    message = command("submit", "a && b", exits=2).stderr
    assert "dispatcher: command: 'a && b' is not a program; write: sh -c 'a && b'\n" == message
    message = command("submit", "--", "echo 'x' > y", exits=2).stderr
    assert """write: sh -c 'echo '"'"'x'"'"' > y'\n""" in message
    message = command("submit", "--from", "-", stdin=b'{"command": ["sleep 5"]}', exits=2).stderr
    assert "line 1: command: 'sleep 5' is not a program; write: sh -c 'sleep 5'" in message
    message = command("submit", "--", "a\n" * 200, exits=2).stderr
    assert "dispatcher: command: its first word is not a program; write: sh -c '...'\n" == message
    message = command("submit", "a && b", "c", exits=2).stderr
    assert "dispatcher: command: 'a && b' is not a program; write: sh -c '...'\n" == message
    for word in ("/bin/a && b", "ls -l"):
        command("submit", word, "c", exits=2)
    command("submit", "/bin/ls -l", exits=2)
    assert [] == command("list", "--json").json
    command("submit", "./my tool", "c")
    command("submit", "--env", f"PATH={Path.cwd()}/bin", "other tool")
    command("submit", "--", "no-such-program")
    command("submit", "--", "sh", "-c", "a && b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--", "s2.py"), "no program 's2.py' in your PATH now; ./s2.py?"),
        (("--", "s3.py", "x"), "no program 's3.py' in your PATH now"),
        (("--", "./s3.py"), "no program './s3.py' in {cwd!r} now"),
        (("--cwd", "sub", "--", "./s2.py"), "no program './s2.py' in '{cwd}/sub' now"),
        (("--", "/none/prog"), "no program '/none/prog' now"),
        (("--", "/my disk/run.sh", "x"), "no program '/my disk/run.sh' now"),
        (("--", "./my disk/run.sh", "x"), "no program './my disk/run.sh' in {cwd!r} now"),
        (("--", "/usr"), "'/usr' is a directory; name a program"),
        (("--cwd", "s2.py", "--", "true"), "'{cwd}/s2.py' is not a directory; name one"),
        (("--", "./s2.py"), "'./s2.py' is not executable now; chmod +x makes it so"),
        (("--cwd", "none", "--", "true"), "no directory '{cwd}/none' now; make it before the task"),
        (("--env", "PATH=/none", "--", "true"), "no program 'true' in your PATH now"),
    ],
)
def test_a_program_or_directory_that_is_missing_is_reported_and_the_task_kept(
    command: Command, words: tuple[str, ...], message: str
) -> None:
    Path("s2.py").touch()
    Path("sub").mkdir()

    result = command("submit", *words)

    reported = message.format(cwd=str(Path.cwd()))
    assert f"dispatcher: {reported}" in result.stderr
    assert 2 == len(result.stderr.splitlines())
    assert "" == command("submit", "--json", *words).stderr


def test_a_program_that_exists_or_cannot_be_known_is_not_reported(command: Command) -> None:
    command.configure('[profiles.none]\ncommand = ["no-such-program"]')
    Path("sub").mkdir()
    Path("sub/mine").touch(mode=0o755)

    for words in (
        ("--", "true"),
        ("--cwd", "sub", "--", "./mine"),
        ("--env", f"PATH={Path.cwd()}/sub", "--", "mine"),
        ("--clean-env", "--", "no-such-program"),
        ("--profile", "none"),
    ):
        assert IDLE == command("submit", *words).stderr
    assert IDLE == command("submit", "--from", "-", stdin=b'{"command": ["none"]}').stderr


def test_a_directory_of_the_path_that_is_closed_stops_no_submit(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's own is closed to others, and stands in the PATH of its `su`."""
    usual = os.stat

    def stat(path: str | Path, **others: bool) -> os.stat_result:
        if str(path).startswith("/closed/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return usual(path, **others)

    monkeypatch.setattr(os, "stat", stat)
    for words in (("true",), ("/closed/true",)):
        path = f"PATH=/closed:{os.environ['PATH']}"
        assert IDLE == command("submit", "--env", path, "--", *words).stderr


def test_an_edit_reports_a_directory_that_is_missing(command: Command) -> None:
    command("submit", "--", "true")

    result = command("edit", 1, "--cwd", "none")

    expected = f"dispatcher: no directory '{Path.cwd()}/none' now; make it before the task starts\n"
    assert ("1 edited\n", expected) == (result.stdout, result.stderr)
    for words in (("edit", 1, "--cwd", ""), ("submit", "--cwd", "", "--", "true")):
        assert "cwd: is empty; name a directory" in command(*words, exits=2).stderr


def test_a_submit_without_a_daemon_reports_that_nothing_runs_yet(command: Command) -> None:
    alone = command("submit", "--", "true")
    bulk = command("submit", "--from", "-", stdin=b'{"command": ["true"]}\n' * 2)

    assert ("1\n", IDLE) == (alone.stdout, alone.stderr)
    assert ("2\n3\n", IDLE) == (bulk.stdout, bulk.stderr)
    assert "" == command("submit", "--json", "--", "true").stderr
    with closing(lock_file(command.state_dir / DAEMON_LOCK, "the state directory")):
        assert "" == command("submit", "--", "true").stderr


def test_a_program_gives_an_environment_itself(command: Command) -> None:
    config = load(str(command.config_file))

    assert new_task(config, ["true"], {}).environment is None
    given = new_task(config, ["true"], {"environment": Environment({"A": "1"}), "umask": 0o002})
    assert ({"A": "1"}, 0o002) == (given.environment and given.environment.variables, given.umask)
    with pytest.raises(InvalidTask, match="umask: must be from 0 to 0o777, not 0o1000"):
        new_task(config, ["true"], {"umask": 0o1000})
    with pytest.raises(InvalidTask, match="environment: expected Environment"):
        new_task(config, ["true"], {"environment": {"A": "1"}})  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('umask = "8"', "defaults.umask: '8' is not a umask; write three octal digits, for ex"),
        ("umask = 22", "defaults.umask: expected a text in quotes, got an integer; write for"),
        ('environment = "mine"', 'defaults.environment: \'mine\' is not "submitter" or "clean"'),
    ],
)
def test_mistakes_of_the_configuration_are_named(command: Command, line: str, message: str) -> None:
    command.configure(f"[defaults]\n{line}\n")

    assert message in command("check-config", exits=78).stderr
