"""A task runs as the shell that submits it would run it."""

import signal
import subprocess
from pathlib import Path

from tests.e2e.helpers import expect_settled, shell
from tests.e2e.test_worker_world import LIBRARYS_OWN
from tests.e2e.world import DISPATCHER, World

#: Writes down what its shell was started with; "$1" is the directory.
REPORT = """#!/bin/sh
mkdir "$1"
cp /proc/$$/environ /proc/$$/limits "$1"
# By the shell itself, which blocks all signals until a child's exec is over.
while IFS= read -r line; do printf "%s\\n" "$line"; done < /proc/$$/status > "$1/status"
umask > "$1/umask"
pwd > "$1/pwd"
command -v tool > "$1/tool"
touch "$1/file"
"""

#: Runs the report itself, and then submits it.
SCRIPT = """
umask 027
mkdir -p "here and there"
cd "here and there"
export PWD
report direct
{cli} submit -- report task
"""


def test_a_command_runs_as_in_the_shell_that_submits_it(world: World) -> None:
    """But for the mark, and the variables of submitter and dispatcher themselves."""
    bin_ = world.directory / "bin"
    bin_.mkdir()
    for name, text in (("report", REPORT), ("tool", "#!/bin/sh\n")):
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    env = {
        **world.env,
        "PATH": f"{bin_}:{world.env['PATH']}",
        "CUDA_VISIBLE_DEVICES": "1",
        "GREETING": "grüße\n= €",
        "TERM": "dumb",
        "NOTIFY_SOCKET": "/run/no",
        "SHLVL": "7",
    }
    with world.daemon(env={"LC_TIME": "C", "TZ": "UTC", "USER": "somebody"}) as daemon:
        submitted = subprocess.run(
            shell(SCRIPT.format(cli=DISPATCHER)),
            env=env,
            cwd=world.directory,
            check=True,
            capture_output=True,
            preexec_fn=_default_signals,
        )
        expect_settled(daemon, [int(submitted.stdout)], outcome="succeeded")

    direct, task = (world.directory / "here and there" / name for name in ("direct", "task"))
    left_out = {"NOTIFY_SOCKET", "OLDPWD", "SHLVL"}
    wanted = {entry for entry in _variables(direct) if entry.partition("=")[0] not in left_out}
    assert wanted == _variables(task)
    assert "GREETING=grüße\n= €" in wanted
    assert _limits(direct) == _limits(task)
    assert _signals(direct) == _signals(task)
    for name in ("umask", "pwd", "tool"):
        assert (direct / name).read_text() == (task / name).read_text()
    assert [0o640, 0o640] == [(one / "file").stat().st_mode & 0o777 for one in (direct, task)]


def _default_signals() -> None:
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)


def _variables(report: Path) -> set[str]:
    entries = (report / "environ").read_text().removesuffix("\0").split("\0")
    assert len(entries) == len({entry.partition("=")[0] for entry in entries})
    return {entry for entry in entries if not entry.startswith("DISPATCHER_")}


def _limits(report: Path) -> list[str]:
    lines = (report / "limits").read_text().splitlines()
    return [line for line in lines if not line.startswith("Max realtime timeout")]


def _signals(report: Path) -> list[int]:
    facts = dict(line.split(":\t", 1) for line in (report / "status").read_text().splitlines())
    return [int(facts[name], 16) & ~LIBRARYS_OWN for name in ("SigBlk", "SigIgn", "SigCgt")]


def test_r28_no_value_of_a_submitters_variable_is_shown_or_logged(world: World) -> None:
    """Only the database has it, as the pages promise."""
    env = {"TOKEN": "hunter2"}
    with world.daemon() as daemon:
        good = world.cli("submit", "--", "true", env=env).id
        bad = world.cli("submit", "--max-attempts", 1, "no-such-program", env=env).id
        line = '{"command": ["true"]}\n'
        many = world.cli("submit", "--from", "-", stdin=line * 300, env=env).stdout.split()
        expect_settled(daemon, [good, bad, *map(int, many)])
        message = [
            world.cli(*verb).stdout for verb in (["list", "--json"], ["status"], ["metrics"])
        ]
        message += [world.cli(verb, bad).stdout for verb in ("show", "why")]

    assert 1 == len(world.stored("SELECT id FROM environments"))
    assert ["hunter2"] == [
        value for (value,) in world.stored("SELECT variables ->> 'TOKEN' FROM environments")
    ]
    assert [] == [text for text in (*message, daemon.output()) if "hunter2" in text]
    holding = {
        file.name
        for file in (*world.state_dir.rglob("*"), *world.runtime_dir.rglob("*"))
        if file.is_file() and b"hunter2" in file.read_bytes()
    }
    assert holding <= {"tasks.db", "tasks.db-wal"}


def test_a_clean_task_gets_the_executors_variables_and_the_configured_umask(world: World) -> None:
    world.configure(
        defaults={"umask": "0007"},
        **{"profiles.p": {"command": ["sh", "-c", "umask; env"], "umask": "077"}},
    )
    env = {"TOKEN": "hunter2", "TZ": "Europe/Vienna"}
    with world.daemon(env={"TZ": "UTC"}) as daemon:
        clean = world.cli("submit", "--clean-env", "--", *shell("umask; env"), env=env).id
        profile = world.cli("submit", "--profile", "p", env=env).id
        expect_settled(daemon, [clean, profile])
        world.configure(defaults={"umask": "022"})
        world.cli("reload")
        later = world.cli("submit", "--clean-env", "--", *shell("umask; env")).id
        expect_settled(daemon, [later])

    lines = [world.cli("logs", task).stdout.splitlines() for task in (clean, profile, later)]
    assert ["0007", "0077", "0022"] == [one[0] for one in lines]
    assert [["TZ=UTC"]] * 3 == [
        [line for line in one if line.startswith(("TZ=", "TOKEN="))] for one in lines
    ]
