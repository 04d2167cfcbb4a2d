"""The installed command where no daemon runs."""

import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.host.node import known_node_id
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("installed")

#: Prints the help of each verb in a process that has imported no other verb.
EACH_VERB_ALONE = """
import os, sys
from dispatcher.cli import app
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for verb in app.VERBS:
    if (pid := os.fork()) == 0:
        os._exit(app.run([verb, "--help"]))
    if os.waitpid(pid, 0)[1]:
        sys.exit(verb)
"""


def test_submitting_works_with_no_daemon_and_on_a_fresh_host(world: World) -> None:
    assert not world.state_dir.exists()

    assert "1\n" == world.cli("submit", "--", "true").stdout

    assert "ready" == world.show(1)["state"]
    assert 0o700 == world.state_dir.stat().st_mode & 0o777
    assert "not running" == world.cli("status", "--json").json["daemon"]


def test_every_file_of_the_state_directory_is_its_owners_alone_whatever_the_umask(
    world: World,
) -> None:
    world.prefix = ("sh", "-c", 'umask 0; exec "$@"', "sh")
    world.cli("submit", "--", "true")
    with world.daemon("--drain"):
        world.until(1, "succeeded")

    modes = {path.name: path.stat().st_mode & 0o777 for path in world.state_dir.iterdir()}
    assert {"tasks.db", "node-id", "control-socket", "executor.log"} <= modes.keys()
    assert {name: mode for name, mode in modes.items() if mode not in {0o600, 0o700}} == {}


def test_without_any_file_the_users_own_directories_are_used(world: World) -> None:
    environ = {
        "DISPATCHER_CONFIG": "",
        "XDG_STATE_HOME": str(world.directory / "xdg"),
        "XDG_RUNTIME_DIR": str(world.runtime_dir),
    }

    world.cli("submit", "--", "true", env=environ)

    assert (world.directory / "xdg" / "dispatcher" / "tasks.db").exists()


def test_a_daemon_that_listens_is_woken(world: World) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(world.runtime_dir / "control.sock"))
        listener.listen()
        listener.settimeout(PATIENCE)

        world.submit("true")

        connection, _ = listener.accept()
        with connection:
            assert b'{"op":"wake"}\n' == connection.recv(100)


@pytest.mark.parametrize("listening", [False, True])
def test_a_daemon_that_does_not_answer_fails_no_submit(world: World, *, listening: bool) -> None:
    path = world.runtime_dir / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        if listening:
            listener.listen(0)

        for _ in range(4):  # more than its backlog takes
            world.submit("true")

        found = world.cli("status", "--json").json["daemon"]
    assert ("not answering" if listening else "not running") == found


@pytest.mark.parametrize(
    "arguments",
    [
        [b"submit", b"--", b"echo", b"\xff"],
        [b"submit", b"--queue", b"\xff", b"--", b"true"],
        [b"submit", b"--env", b"A=\xff", b"--", b"true"],
        [b"submit", b"--label", b"a=\xff", b"--", b"true"],
        [b"submit", b"--key", b"\xff", b"--", b"true"],
        [b"submit", b"--payload", b'"\xff"', b"--", b"cat"],
    ],
)
def test_arguments_that_are_not_utf8_are_refused(world: World, arguments: list[bytes]) -> None:
    message = world.cli(*arguments, exits=2).stderr

    assert "is not UTF-8" in message or "is not a name" in message


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_text_survives_every_locale(world: World, locale: str) -> None:
    environ = {"LC_ALL": locale, "PYTHONIOENCODING": "ascii"}

    world.cli("submit", "--", "echo", "grüße", "€", env=environ)

    assert ["echo", "grüße", "€"] == world.show(1)["command"]
    assert "gr" in world.cli("show", 1, env=environ).stdout


def test_a_variable_of_the_callers_is_taken_by_its_name(world: World) -> None:
    world.cli("submit", "--env", "TOKEN", "--", "true", env={"TOKEN": "hunter2"})

    assert ["TOKEN"] == world.show(1)["env"]
    for verb in (["show", 1], ["show", 1, "--json"], ["list"], ["list", "--json"], ["status"]):
        assert "hunter2" not in world.cli(*verb).stdout


def test_many_lines_come_from_a_file_all_or_none(world: World) -> None:
    file = world.directory / "tasks.jsonl"
    good = '{"command": ["true"], "max-attempts": 1}\n'
    file.write_text(good * 1_000 + '{"command": ["true"], "max_atempts": 1}\n')
    message = world.cli("submit", "--from", file, exits=2).stderr
    assert (
        "dispatcher: line 1001: max_atempts: unknown key; did you mean 'max_attempts'?\n" == message
    )
    assert [] == world.cli("list", "--json").json
    file.write_text(good * 1_000)

    printed = world.cli("submit", "--from", file).stdout

    assert [str(number) for number in range(1, 1_001)] == printed.splitlines()


def test_a_removed_working_directory_is_reported(world: World) -> None:
    gone = world.directory / "gone"
    gone.mkdir()
    script = f"rmdir {gone} && exec {DISPATCHER} submit -- true"

    done = subprocess.run(
        ["sh", "-c", script], cwd=gone, env=world.env, capture_output=True, text=True, check=False
    )

    assert 2 == done.returncode
    assert "dispatcher: cwd: the present directory was removed; name another\n" == done.stderr


def test_a_reader_that_leaves_early_causes_no_error_message(world: World) -> None:
    (world.directory / "many.jsonl").write_text('{"command": ["true"]}\n' * 5_000)
    world.cli("submit", "--from", "many.jsonl")

    done = subprocess.run(
        ["sh", "-c", f"{DISPATCHER} list --json --limit 5000 | head -n 1"],
        env=world.env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ("[\n", "") == (done.stdout, done.stderr)


def test_ctrl_c_ends_quietly_with_130(world: World) -> None:
    process = subprocess.Popen(
        [DISPATCHER, "submit", "--from", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=world.env,
        # A shell's background job ignores it, and would hand that down to whom we start.
    )
    stdin = f"/proc/{process.pid}/syscall"
    eventually(lambda: _assert_reads(stdin))

    process.send_signal(signal.SIGINT)

    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (130, b"", b"") == (process.returncode, stdout, stderr.strip())


def _assert_reads(file: str) -> None:
    """See that a process sits in read(2) on its stdin."""
    call = Path(file).read_text().split()
    assert call[0] in {"0", "63"}  # read, on x86-64 and on ARM
    assert "0x0" == call[1]


def test_a_terminal_gets_a_table_that_fits_it(world: World) -> None:
    world.submit("echo", "x" * 300)
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [DISPATCHER, "list"],
        stdout=follower,
        env={**world.env, "TERM": "xterm", "COLUMNS": "70"},
    )
    os.close(follower)
    shown = os.read(leader, 10_000).decode()
    assert 0 == process.wait(PATIENCE)
    os.close(leader)

    assert "…" in shown
    assert "\x1b[" in shown


def test_a_closed_stdout_is_survived(world: World) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {DISPATCHER} submit -- true >&-"],
        env=world.env,
        capture_output=True,
        check=False,
    )

    assert done.stderr.startswith(b"dispatcher: no daemon runs here")
    assert 1 == len(done.stderr.splitlines())
    assert "ready" == world.show(1)["state"]


def test_check_config_reports_every_mistake_and_exits_78(world: World) -> None:
    world.configure(leases={"ttll": "1s"}, retry={"max_attempts": 0})

    lines = world.cli("check-config", exits=78).stderr.splitlines()

    assert 2 == len(lines)
    assert lines[0].endswith("leases.ttll: unknown key; did you mean 'ttl'?")
    assert "retry.max_attempts: expected an integer >= 1" in lines[1]
    for verb in (["run"], ["submit", "--", "true"], ["claim"]):
        assert lines == world.cli(*verb, exits=78).stderr.splitlines()
    assert lines == world.cli("list").stderr.splitlines()[:2]


def test_each_verb_imports_all_that_it_needs(world: World) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EACH_VERB_ALONE],
        env=world.env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr)


def test_a_daemon_starts_without_rich_and_can_import_it_later(world: World) -> None:
    script = (
        "import sys, dispatcher.cli.verbs.run; found = {'structlog', 'rich'} & set(sys.modules);"
        "import rich.console; print(*found)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], env=world.env, capture_output=True, text=True, check=True
    )

    assert "structlog\n" == done.stdout


def test_the_executor_gets_its_directories_and_a_node_id(world: World) -> None:
    process = subprocess.Popen([DISPATCHER, "executor"], env=world.env, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _assert_executor(process.pid, world))
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _assert_executor(pid: int, world: World) -> None:
    arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1:-1]
    node_id = known_node_id(world.state_dir)
    expected = ["-P", "-m", "dispatcher.executor", "--state-dir", str(world.state_dir)]
    expected += ["--runtime-dir", str(world.runtime_dir), "--node-id", str(node_id)]
    assert [*expected, "--log-format", "json"] == arguments
