"""What a worker gets from its submitter, its task and the dispatcher, and in which order."""

import ast
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dispatcher import wire
from dispatcher.environment import Environment
from dispatcher.executor_api import StartSettings, for_version_3, start_message
from dispatcher.times import Instant, StoreTime
from tests.simulation import World

SETTINGS = StartSettings(
    worker_socket="/run/worker.sock",
    umask=0o027,
    configuration={"DISPATCHER_CONFIG": "/ours.toml", "DISPATCHER_STATE_DIR": "/ours"},
    environments={"p": {"SECRET": "s", "BOTH": "of the file"}},
)


def started(*command: str, **facts: Any) -> wire.Start:
    """Return the start of a task with these facts."""
    world = World()
    world.submit(*command, **{"cwd": "/work", **facts})
    with world.store.transaction() as now:
        (claim,) = world.store.claim("default", limit=1, node="n", output_dir="/out", now=now)
    at = Instant(0.0)
    return start_message(claim, SETTINGS, epoch=1, now=StoreTime(0), at=at, deadlines={})


def test_a_submitters_variables_replace_the_executors_and_give_way_to_the_tasks() -> None:
    shell = {"PATH": "/venv/bin", "LEVEL": "1", "BOTH": "of the shell", "PWD": "/elsewhere"}
    start = started(environment=Environment(shell), env={"LEVEL": "2"}, profile="p", umask=0o002)

    assert not start.inherits
    wanted = {"PATH": "/venv/bin", "LEVEL": "2", "BOTH": "of the file", "SECRET": "s"}
    wanted["DISPATCHER_SECRETS"] = "BOTH SECRET"
    ours = {"DISPATCHER_CONFIG": "/ours.toml", "DISPATCHER_SOCKET": "/run/worker.sock"}
    ours["PWD"] = "/work"
    assert {**wanted, **ours} == {name: start.env[name] for name in (*wanted, *ours)}
    assert 0o002 == start.umask


def test_a_clean_task_inherits_from_the_executor_and_has_the_configured_umask() -> None:
    start = started(env={"LEVEL": "2"})

    assert (True, 0o027) == (start.inherits, start.umask)
    assert {"PATH", "PWD", "DISPATCHER_SECRETS"}.isdisjoint(start.env)
    assert "2" == start.env["LEVEL"]


def test_a_task_that_names_another_configuration_gets_none_of_ours() -> None:
    start = started(environment=Environment({"A": "1"}), env={"DISPATCHER_CONFIG": "/other.toml"})

    assert "/other.toml" == start.env["DISPATCHER_CONFIG"]
    assert "DISPATCHER_STATE_DIR" not in start.env


def run_by_version_3(start: wire.Start) -> list[str]:
    """Run a start as an executor of version 3 does, which passes on its own variables."""
    inherited = {"PATH": "/usr/bin:/bin", "TZ": "UTC", "LC_TIME": "C"}
    done = subprocess.run(
        start.command, env={**inherited, **start.env}, check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_an_executor_of_version_3_gives_a_run_the_same() -> None:
    command = ("sh", "-c", 'umask; echo "$1"; env', "x", "a b; $(c)")
    clean = for_version_3(started(*command))
    carried = Environment({"PATH": "/usr/bin:/bin", "TERM": "dumb"})
    carrying = for_version_3(started(*command, environment=carried, umask=0o077))

    first, second = run_by_version_3(clean), run_by_version_3(carrying)

    assert (["0027", "a b; $(c)"], ["0077", "a b; $(c)"]) == (first[:2], second[:2])
    assert {"TZ=UTC", "LC_TIME=C"} <= set(first)
    assert {"TZ=UTC", "LC_TIME=C"}.isdisjoint(second)
    assert "TERM=dumb" in second
    assert {(True, wire.UMASK)} == {(one.inherits, one.umask) for one in (clean, carrying)}


@pytest.mark.parametrize("program", ["python3", "./a=b"])
def test_an_executor_of_version_3_passes_on_what_a_shell_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b").symlink_to(sys.executable)
    of_shells = dict.fromkeys(("PS1", "PPID", "IFS", "OPTIND", "RANDOM", "UID", "SHLVL", "_"), "7")
    odd = {"BASH_FUNC_go%%": "() {  echo went $1\n}", "a.b": "1 $(x)", "-i": "'\"", "path": "x y"}
    odd |= {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "ENV": "x", "LC_CTYPE": "C"}
    shell = {"PATH": "/usr/bin:/bin", **odd, **of_shells}
    shows = "print(open('/proc/self/environ').read().split('\\0'))"
    environment = Environment(shell)

    start = for_version_3(started(program, "-I", "-c", shows, environment=environment))
    (shown,) = run_by_version_3(start)

    sent = {f"{name}={value}" for name, value in start.env.items()}
    assert sent | {""} == set(ast.literal_eval(shown))
    assert {f"{name}={shell[name]}" for name in environment.variables} <= sent
    assert not any("1 $(x)" in word for word in start.command)  # other users read arguments


def test_an_executor_of_version_3_reports_a_missing_program_as_a_shell_does() -> None:
    start = for_version_3(started("nonesuch"))

    ran = subprocess.run(start.command, env=start.env, check=False, capture_output=True, text=True)

    assert (127, "nonesuch: No such file or directory\n") == (ran.returncode, ran.stderr)


def test_an_executor_of_version_3_gives_a_run_the_signals_of_other_runs() -> None:
    start = for_version_3(started("grep", "SigIgn", "/proc/self/status"))

    (line,) = run_by_version_3(start)

    ignored_by_python = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert 0 == int(line.split()[1], 16) & ignored_by_python


def test_the_executors_path_fills_the_gap_that_a_secret_left() -> None:
    secrets = {"DISPATCHER_SECRETS": "PATH TOKEN", "PATH": "/sekret", "TOKEN": "sekret"}
    stored = Environment.from_json(Environment({"A": "1", **secrets}).text)

    start = started(environment=stored)

    assert start.inherits
    assert "1" == start.env["A"]
    assert {"PATH", "TOKEN", "DISPATCHER_SECRETS"}.isdisjoint(start.env)
    assert "sekret" not in stored.text
    assert not started(environment=Environment({"A": "1", "DISPATCHER_SECRETS": "TOKEN"})).inherits


@pytest.mark.parametrize(("version", "program"), [(3, sys.executable), (wire.VERSION, "true")])
def test_the_daemon_starts_a_run_in_the_way_that_its_executor_knows(
    version: int, program: str
) -> None:
    world = World()
    world.executor.hello = partial(world.executor.hello, version=version)  # type: ignore[method-assign]
    world.submit("true")

    world.start()

    (start,) = world.executor.starts
    assert program == start.command[0]
