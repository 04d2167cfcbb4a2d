"""What a worker finds when it starts: environment, stdin, directory, signals, session, socket."""

import json
import os
import resource
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e.helpers import expect_file, expect_settled, python, shell, stored, submit_all
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually

#: Writes down what the kernel knows of its shell, before anything could change it; the first
#: attempt fails, the second waits.
REPORT = shell("""
    directory=report.$DISPATCHER_ATTEMPT
    mkdir "$directory"
    cat > "$directory/stdin"
    cat /proc/$$/environ > "$directory/environ"
    cat /proc/$$/stat > "$directory/stat"
    output=$(readlink /proc/$$/fd/1 /proc/$$/fd/2)
    echo "$output" > "$directory/output"
    pwd > "$directory/cwd"
    stat -c %a "$directory/cwd" > "$directory/mode"
    mv "$directory" "done.$DISPATCHER_ATTEMPT"
    [ "$DISPATCHER_ATTEMPT" = 2 ] || exit 1
    while [ ! -e go ]; do sleep 0.02; done
""")

#: The daemon's own environment: what a worker inherits, and what it must not.
PASSED = {"USER": "somebody", "LC_TIME": "C", "TZ": "UTC", "TMPDIR": "/tmp", "SHELL": "/bin/sh"}
KEPT = {"API_TOKEN": "hunter2", "DISPATCHER_CLAIM_LOCK": "outer", "NOTIFY_SOCKET": "/run/no"}

#: Signals 32 and 33, in a mask: posix_spawn leaves them ignored, and no program uses them.
LIBRARYS_OWN = 0b11 << 31

#: Sends its heartbeat as a worker would, with no help; prints the answer.
BEAT = python("""
    import json, os, socket
    lines = socket.socket(socket.AF_UNIX)
    lines.connect(os.environ["DISPATCHER_SOCKET"])
    beat = {"op": "heartbeat", "lock": os.environ["DISPATCHER_CLAIM_LOCK"],
            "task_id": int(os.environ["DISPATCHER_TASK_ID"])}
    lines.sendall(json.dumps(beat).encode() + b"\\n")
    print(lines.makefile().readline())
""")


@pytest.mark.parametrize(
    "locale",
    [
        {"LANG": "C"},
        {"LC_ALL": "POSIX"},
        # Each of these Python replaces in its own environment (PEP 538).
        {"LC_CTYPE": "C"},
        {"LC_CTYPE": ""},
        {"LC_CTYPE": "no_such_locale"},
        # As with a locale of another encoding, of which no test machine is sure to have one.
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_r72_a_program_gets_every_byte_whatever_the_locale_of_daemon_and_submitter(
    world: World, locale: dict[str, str]
) -> None:
    here = world.directory / "grüße"
    here.mkdir()
    report = shell(
        'printf %s "$0" > argument; printf %s "$GREETING" > variable; cat /proc/$$/environ > all'
    )
    with world.daemon(env={"LANG": "", **locale}) as daemon:
        variable = ("--env", "GREETING=grüße €", "--cwd", "grüße")
        task_id = world.cli(
            "submit", *variable, "--", *report, "ä€\N{GRINNING FACE}", env=locale
        ).id
        daemon.expect("run.settled", task_id=task_id, outcome="succeeded")

    assert "ä€\N{GRINNING FACE}".encode() == (here / "argument").read_bytes()
    assert "grüße €".encode() == (here / "variable").read_bytes()
    theirs = (here / "all").read_text().split("\0")
    given = {f"{name}={value}" for name, value in locale.items() if name.startswith("LC_")}
    assert given == {entry for entry in theirs if entry.startswith("LC_")}


@pytest.mark.parametrize("named", [True, False], ids=["a file", "no file"])
def test_r71_a_call_inside_a_task_reaches_the_dispatcher_that_runs_it(
    world: World, named: bool
) -> None:
    """For any home of the task, and any source of the daemon's state directory."""
    world.configure(executor={"mode": "embedded"})
    lines = world.config_file.read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith(("state_dir", "runtime_dir")))
    world.config_file.write_text(text)
    daemons = {
        "DISPATCHER_CONFIG": str(world.config_file) if named else "",
        "STATE_DIRECTORY": str(world.state_dir),
        "RUNTIME_DIRECTORY": str(world.runtime_dir),
    }
    nested = f"{DISPATCHER} heartbeat --note alive && {DISPATCHER} submit -- echo nested"
    with world.daemon(env=daemons) as daemon:
        outer = world.cli(
            "submit",
            "--env",
            f"HOME={world.directory}/elsewhere",
            "--",
            *shell(nested),
            env=daemons,
        ).id
        daemon.expect("run.settled", task_id=outer, outcome="succeeded")
        daemon.expect("run.settled", task_id=outer + 1, outcome="succeeded")

    assert "alive" == world.cli("show", outer, "--json", env=daemons).json["runs"][0]["note"]
    assert not (world.directory / "elsewhere").exists()


#: Waits until its dispatcher's file was changed, and then speaks to that dispatcher.
SPEAKS_LATER = """
    touch began; until [ -e changed ]; do sleep 0.02; done
    {cli} heartbeat --note alive || exit 79
"""


def test_calls_inside_a_task_reach_its_dispatcher_after_a_change_of_the_file(
    world: World,
) -> None:
    right = world.config_file.read_text()
    script = SPEAKS_LATER + "{cli} submit -- echo nested && {cli} complete --result 7"
    with world.daemon() as daemon:
        outer = world.submit(*shell(script.format(cli=DISPATCHER)))
        expect_file(world, "began")
        world.configure(
            node={"state_dir": f"{world.directory}/other"},
            store={"url": f"sqlite://{world.directory}/another/tasks.db"},
        )
        (world.directory / "changed").touch()
        settled = daemon.expect("run.settled", task_id=outer)
        nested = daemon.expect("run.settled", task_id=outer + 1)
        world.config_file.write_text(right)

    assert ("succeeded", "succeeded") == (settled["outcome"], nested["outcome"])
    (run,) = world.show(outer)["runs"]
    assert ("alive", 7) == (run["note"], run["result"])
    assert [] == [name for name in ("other", "another") if (world.directory / name).exists()]


@pytest.mark.parametrize("text", [None, "[node\n", "[node]\nstate_dir = 5\n"])
def test_r71_a_heartbeat_inside_a_task_needs_no_configuration(
    world: World, text: str | None
) -> None:
    """`heartbeat || exit 79` ends no healthy run while somebody edits the file."""
    right = world.config_file.read_text()
    script = SPEAKS_LATER + '{cli} fail --reason "as requested" --no-retry'
    with world.daemon() as daemon:
        task_id = world.submit(*shell(script.format(cli=DISPATCHER)))
        expect_file(world, "began")
        world.config_file.unlink()
        if text is not None:
            world.config_file.write_text(text)
        (world.directory / "changed").touch()
        settled = daemon.expect("run.settled", task_id=task_id)
        world.config_file.write_text(right)

    assert "failed" == settled["outcome"]
    task = world.show(task_id)
    assert "alive" == task["runs"][0]["note"]
    assert "as requested" in task["reason"]


def test_r71_another_file_inside_a_task_means_another_dispatcher_however_it_is_named(
    world: World,
) -> None:
    """Its directories are its own, and no call with it reaches the outer dispatcher."""
    inner = world.directory / "inner.toml"
    inner.write_text(f'[node]\nstate_dir = "{world.runtime_dir}/inner"')
    script = f"""
        DISPATCHER_CONFIG={inner} {DISPATCHER} check-config --json > by-variable
        {DISPATCHER} --config {inner} check-config --json > by-option
        DISPATCHER_CONFIG={inner} {DISPATCHER} submit -- true 2> none-runs
        {DISPATCHER} --config {inner} submit -- true 2> none-runs
    """
    with world.daemon() as daemon:
        task_id = world.submit(*shell(script))
        daemon.expect("run.settled", task_id=task_id, outcome="succeeded")

    by_variable, by_option = (
        json.loads((world.directory / name).read_text()) for name in ("by-variable", "by-option")
    )
    assert by_variable == by_option
    assert f"{world.runtime_dir}/inner/run" == by_option["runtime_dir"]
    assert "1\n2\n" == world.cli("logs", task_id).stdout
    assert [task_id] == [task["id"] for task in world.cli("list", "--json").json]


def test_r28_r31_a_clean_worker_gets_only_its_claim_and_the_allowed_variables(
    world: World,
) -> None:
    """The lock in the environment is the stored one, byte for byte."""
    mine = {"GREETING": "grüße\n=", "HOME": "/elsewhere", "DISPATCHER_CONFIG": "mine"}
    with world.daemon(env={**PASSED, **KEPT, "DISPATCHER_RUN": "outer"}) as daemon:
        (task_id,) = submit_all(
            world,
            {
                "command": REPORT,
                "env": mine,
                "queue": "reports",
                "max_attempts": 2,
                "clean_env": True,
            },
        )
        expect_file(world, "done.2/environ")
        rows = stored(world, "SELECT id, uid, lock FROM runs ORDER BY fence")
        ((lock, uid),) = stored(world, "SELECT lock, uid FROM runs WHERE outcome IS NULL")
        (world.directory / "go").touch()
        expect_settled(daemon, [task_id])
        daemon.expect("run.settled", outcome="succeeded")

    assert (uid, lock) == rows[1][1:]
    inherited = {name: world.env[name] for name in ("PATH", "LANG")}
    for attempt, (run_id, run_uid, run_lock) in enumerate(rows, start=1):
        claim = {
            "DISPATCHER_TASK_ID": str(task_id),
            "DISPATCHER_RUN_ID": str(run_id),
            "DISPATCHER_RUN": run_uid,
            "DISPATCHER_RUN_OUTER": "outer",
            "DISPATCHER_ATTEMPT": str(attempt),
            "DISPATCHER_FENCE": str(attempt),
            "DISPATCHER_CLAIM_LOCK": run_lock,
            "DISPATCHER_SOCKET": f"{world.runtime_dir}/worker.sock",
            "DISPATCHER_LEASE_TTL": "60",
            "DISPATCHER_HEARTBEAT_INTERVAL": "20.000",
            "DISPATCHER_QUEUE": "reports",
            "DISPATCHER_LAST_OUTCOME": ["", "failed"][attempt - 1],
        }
        found = _environment(world, attempt)
        previous = json.loads(found.pop("DISPATCHER_PREVIOUS", "null"))
        assert {**inherited, **PASSED, **mine, **claim} == found
        assert [None, "failed"][attempt - 1] == (previous and previous["outcome"])


def _environment(world: World, attempt: int) -> Mapping[str, str]:
    text = (world.directory / f"done.{attempt}" / "environ").read_text()
    pairs = [variable.partition("=") for variable in text.split("\0") if variable]
    environment = {name: value for name, _, value in pairs}
    assert len(pairs) == len(environment), "a variable stands there twice"
    return environment


def test_a_worker_starts_with_payload_and_directory_in_a_session_of_its_own(world: World) -> None:
    payload = json.dumps({"text": "grüße", "long": "x" * 100_000}, ensure_ascii=False)
    (world.directory / "payload.json").write_text(payload)
    cwd = world.directory / "grüße und küsse"
    cwd.mkdir()
    with world.daemon() as daemon:
        given = ("--payload", "@payload.json", "--cwd", cwd.name, "--max-attempts", 1)
        task_id = world.cli("submit", "--clean-env", *given, "--", *REPORT).id
        expect_settled(daemon, [task_id])

    report = cwd / "done.1"
    (run,) = world.show(task_id)["runs"]
    assert payload == (report / "stdin").read_text()
    assert f"{cwd}\n" == (report / "cwd").read_text()
    assert "644\n" == (report / "mode").read_text()  # umask 022
    assert f"{run['output_path']}\n" * 2 == (report / "output").read_text()
    _, _, stat = (report / "stat").read_text().rpartition(") ")
    assert [str(run["pid"])] * 2 == stat.split()[2:4]  # process group, session


def test_a_worker_starts_with_default_signals_and_limits_and_no_descriptor_of_ours(
    world: World,
) -> None:
    commands = [
        ["cat", "/proc/self/status"],
        ["grep", "open files", "/proc/self/limits"],
        ["ls", "/proc/self/fd"],
        ["sh", "-c", "readlink /proc/self/fd/0; cat"],
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        with world.daemon() as daemon:
            ids = submit_all(world, *({"command": command} for command in commands))
            expect_settled(daemon, ids)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    status, limits, descriptors, stdin = (world.cli("logs", i).stdout for i in ids)
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    masks = [int(facts[name], 16) & ~LIBRARYS_OWN for name in ("SigIgn", "SigBlk", "SigPnd")]
    assert [0, 0, 0] == masks
    assert ["Max", "open", "files", str(soft - 1), str(hard), "files"] == limits.split()
    assert ["0", "1", "2", "3"] == descriptors.split()  # the last is how ls reads the directory
    assert "/dev/null\n" == stdin


def test_a_heartbeat_is_answered_and_junk_disturbs_nobody(world: World) -> None:
    with world.daemon() as daemon:
        daemon.expect("executor.connected")
        junk = [_connected(world) for _ in range(3)]
        junk[0].sendall(os.urandom(1000).replace(b"\n", b"") + b"\n")
        junk[1].sendall(b"{" * 60_000)
        eventually(lambda: _assert_dropped(junk[2], b"x" * 70_000))
        before = daemon.process.poll()

        task_id = world.submit(*BEAT)

        expect_settled(daemon, [task_id])
        assert (None, None) == (before, daemon.process.poll())
        for connection in junk:
            connection.close()

    answer = json.loads(world.cli("logs", task_id).stdout)
    assert {"ok": True, "lease_expires_in": 60.0} == answer
    (run,) = world.show(task_id)["runs"]
    assert "succeeded" == run["outcome"]
    assert run["last_heartbeat_at"] >= run["started_at"]


def _connected(world: World) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    connection.connect(str(world.runtime_dir / "worker.sock"))
    return connection


def _assert_dropped(connection: socket.socket, line: bytes) -> Any:
    try:
        connection.sendall(line)
        answer = connection.recv(1)
    except OSError:
        return
    assert b"" == answer
