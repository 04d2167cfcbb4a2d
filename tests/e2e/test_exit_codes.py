"""Every exit code of the command line, each with one line on stderr and never a traceback."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.helpers import small_disk
from tests.e2e.mistaken import remount
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually


def failed(world: World) -> None:
    """One task that nobody has tried, and a lock file that is somebody's old one."""
    world.submit("true")
    (world.directory / "old.lock").write_text("not-the-lock\n")


def misconfigured(world: World) -> None:
    world.config_file.write_text("[node]\nslotz = 1\n")


def damaged(world: World) -> None:
    world.submit("true")
    for file in world.state_dir.glob("tasks.db*"):
        file.unlink()
    (world.state_dir / "tasks.db").write_bytes(b"no database " * 1_000)


def no_room(world: World) -> None:
    """The state directory would lie in a file."""
    world.state_dir.write_text("")


def nothing(_: World) -> None:
    """Nothing but the configuration."""


CODES: list[tuple[int, Callable[[World], None], list[str | int], str]] = [
    (0, nothing, ["list"], "no tasks"),
    (0, nothing, ["status"], ""),
    (0, nothing, ["prune"], "none finished"),
    (0, nothing, ["--help"], ""),
    (1, nothing, ["show", 7], "no task 7"),
    (1, nothing, ["claim"], "nothing to claim"),
    (1, nothing, ["reload"], "no daemon runs here"),
    (1, failed, ["logs", 1], "task 1 has not run yet"),
    (1, failed, ["release", 1], "only held and waiting ones can be released"),
    (1, failed, ["claim", "--lock-file", "/nowhere/x"], "No such file or directory"),
    (1, failed, ["restore", "/" + "x" * 300], "File name too long; name a backup"),
    (2, nothing, ["lst"], "did you mean 'list'?"),
    (2, nothing, ["list", "--since", "soon"], "'soon' is not a time"),
    (2, nothing, ["submit"], "command"),
    (2, nothing, ["submit", "--from", "/"], "Is a directory"),
    (2, nothing, ["submit", "--payload", "@/nowhere", "--", "true"], "No such file"),
    (2, failed, ["fail", "--task", 1, "--lock", "x", "--reason", ""], "give a reason"),
    (2, failed, ["heartbeat", "--task", 1], "no lock"),
    (78, misconfigured, ["submit", "--", "true"], "did you mean 'slots'?"),
    (78, misconfigured, ["run"], "did you mean 'slots'?"),
    (78, damaged, ["submit", "--", "true"], "is damaged"),
    (78, no_room, ["submit", "--", "true"], "Not a directory"),
    (78, no_room, ["run"], "state directory"),
    (79, failed, ["complete", "--task", 1, "--lock-file", "old.lock"], "not_running"),
    (79, failed, ["heartbeat", "--task", 99, "--lock-file", "old.lock"], "unknown_task"),
]


@pytest.mark.parametrize(
    ("code", "given", "arguments", "message"),
    CODES,
    ids=lambda part: " ".join(map(str, part)) if isinstance(part, list) else None,
)
def test_each_exit_code_is_the_listed_one_and_is_explained_in_a_line(
    world: World,
    code: int,
    given: Callable[[World], None],
    arguments: list[str | int],
    message: str,
) -> None:
    given(world)

    result = world.cli(*arguments, exits=code)

    assert message in result.stderr
    assert (1 if message else 0) == len(result.stderr.splitlines())


@pytest.mark.parametrize(
    "typed",
    [
        *("list", "submit -- true", "status", "run", "executor", "prune", "backup copy.db"),
        *("migrate", "migrate --check"),
    ],
)
def test_a_database_without_permission_to_open_is_reported(world: World, typed: str) -> None:
    world.submit("true")

    done = denied(world, typed.split())

    assert 78 == done.returncode, done
    assert "ermission denied" in done.stderr
    assert str(world.state_dir) in done.stderr
    assert 1 == len(done.stderr.splitlines())


@pytest.mark.parametrize("runtime_dir", ["short", "in the state directory"])
def test_doctor_looks_at_all_where_the_state_directory_is_denied(
    world: World, runtime_dir: str
) -> None:
    if runtime_dir != "short":
        world.state_dir = world.runtime_dir / "state"
        world.configure(node={"runtime_dir": f"{world.state_dir}/run"})
    world.submit("true")

    done = denied(world, ["doctor", "--json"])

    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert (1, "") == (done.returncode, done.stderr)
    for check in ("node id", "journal", "output", "store"):
        assert "bad" == found[check]["level"], found[check]
        assert "ermission denied" in found[check]["finding"]
        assert found[check]["remedy"]
    assert {"state directory", "sockets", "daemon"} <= found.keys()
    assert ("ok" if runtime_dir == "short" else "bad") == found["sockets"]["level"]


@pytest.mark.parametrize(
    "typed", ["backup b2", "backup --overwrite b1", "metrics --textfile m", "claim --lock-file l"]
)
def test_a_disk_that_is_mounted_for_reading_is_the_hosts_trouble(world: World, typed: str) -> None:
    world.submit("true")
    *words, file = typed.split()
    with small_disk(world, "disk") as disk:
        world.cli("backup", disk / "b1")
        remount(disk, "ro")

        lines = world.cli(*words, disk / file, exits=75).stderr.splitlines()

        assert [b"SQLite format 3"] == [one.read_bytes()[:15] for one in disk.iterdir()]
    assert 1 == len(lines)
    assert file in lines[0]
    assert "-wal" not in lines[0]
    assert lines[0].endswith("Read-only file system; mount it for writing, and try again")
    assert "ready" == world.show(1)["state"]


def denied(world: World, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the command where the state directory lets nobody in, and root is nobody special."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("we are root, and setpriv, to give up root's rights, is missing")
        weak = "-dac_override,-dac_read_search,-fowner"
        prefix = ["setpriv", f"--bounding-set={weak}", f"--inh-caps={weak}"]
    world.state_dir.chmod(0)
    try:
        return subprocess.run(
            [*prefix, DISPATCHER, *arguments],
            env=world.env,
            cwd=world.directory,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        world.state_dir.chmod(0o700)


def redirected(world: World, arguments: str, where: str) -> subprocess.CompletedProcess[str]:
    """Run the command with its output redirected by a shell."""
    return subprocess.run(
        ["sh", "-c", f"exec {DISPATCHER} {arguments} {where}"],
        env=world.env,
        cwd=world.directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory, bytecode: Path) -> Iterator[World]:
    """A world in which one task has run."""
    world = World(tmp_path_factory.mktemp("idle"), bytecode)
    try:
        world.submit("echo", "x")
        world.cli("run", "--drain")
        yield world
    finally:
        world.close()


@pytest.mark.parametrize(
    "verb", ["list", "list --json-lines", "show 1", "logs 1", "status", "config", "--help"]
)
def test_a_full_disk_and_a_closed_stdout_are_reported_or_survived(idle: World, verb: str) -> None:
    full, closed, left = (
        redirected(idle, verb, where) for where in ("> /dev/full", ">&-", "2>&1 | true")
    )

    assert (1, "dispatcher: cannot write: No space left on device\n") == (
        full.returncode,
        full.stderr,
    )
    assert (0, "") == (closed.returncode, closed.stderr)
    assert ("", "") == (left.stdout, left.stderr)


@pytest.mark.parametrize("options", ["", "--json"])
@pytest.mark.parametrize("tasks", [1, 25])
def test_a_submit_whose_ids_cannot_be_printed_names_them_and_exits_74(
    world: World, options: str, tasks: int
) -> None:
    lines = world.directory / "tasks.jsonl"
    lines.write_text('{"command": ["true"]}\n' * tasks)
    source = "--from tasks.jsonl" if tasks > 1 else "-- true"

    full = redirected(world, f"submit {options} {source}", "> /dev/full")

    why = "do not submit again (cannot write: No space left on device)"
    named = " ".join(map(str, range(1, 21)))
    many = f"tasks {named}, and all that follow, were submitted, and not all ids are printed: {why}"
    message = many if tasks > 1 else f"task 1 was submitted, and its id is not printed: {why}"
    assert (74, f"dispatcher: {message}\n") == (full.returncode, full.stderr)
    assert tasks == len(world.cli("list", "--json").json)


@pytest.mark.parametrize("options", ["", "--json", "--lock-file lock.txt"])
def test_a_claim_that_cannot_be_printed_is_given_back_uncharged(world: World, options: str) -> None:
    world.submit("true")

    full = redirected(world, f"claim {options}", "> /dev/full")

    message = "cannot write: No space left on device; task 1 was given back"
    assert (1, f"dispatcher: {message}\n") == (full.returncode, full.stderr)
    shown = world.show(1)
    assert ("ready", "released") == (shown["state"], shown["runs"][0]["outcome"])
    assert 1 == world.cli("claim", "--json").json["attempt"]


def test_nothing_is_claimed_where_the_lock_has_nowhere_to_go(world: World) -> None:
    world.submit("true")

    full = redirected(world, "claim --export", "> /dev/full")

    message = "cannot write: No space left on device; nothing was claimed"
    assert (1, f"dispatcher: {message}\n") == (full.returncode, full.stderr)
    closed = redirected(world, "claim", ">&-")

    assert (2, "ready") == (closed.returncode, world.show(1)["state"])
    assert "stdout is closed, and the lock would be lost; give --lock-file" in closed.stderr
    assert 0 == redirected(world, "claim --lock-file lock.txt", ">&-").returncode


def test_a_change_that_cannot_be_printed_is_not_reported_as_a_refusal(world: World) -> None:
    world.submit("true")

    full = redirected(world, "cancel 1", "> /dev/full")

    message = (
        "cannot write: No space left on device; check whether it was done before you repeat it"
    )
    assert (74, f"dispatcher: {message}\n", "cancelled") == (
        full.returncode,
        full.stderr,
        world.show(1)["state"],
    )


@pytest.mark.parametrize("limit", [5, 6])
def test_too_few_open_files_are_named_as_such(world: World, limit: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n {limit}; exec {DISPATCHER} submit -- true"],
        env=world.env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "raise the limit of open files" in done.stderr
    assert done.stderr.endswith(": ulimit -n 1024\n")


def test_ctrl_c_ends_what_waits_with_130(world: World) -> None:
    process = subprocess.Popen(
        [DISPATCHER, "submit", "--wait", "--", "true"],
        env=world.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: _assert_sleeps(process.pid))

    process.send_signal(signal.SIGINT)

    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (130, b"1\n") == (process.returncode, stdout)
    assert [
        b"dispatcher: no daemon runs here; it waits: dispatcher run --detach",
        b"dispatcher: task 1 goes on; dispatcher cancel 1 ends it",
    ] == stderr.splitlines()


def _assert_sleeps(pid: int) -> None:
    """See that a process sits in its poll's sleep: clock_nanosleep, on x86-64 and on ARM."""
    with open(f"/proc/{pid}/syscall") as file:
        assert file.read().split()[0] in {"230", "115"}
