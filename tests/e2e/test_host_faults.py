"""The host runs short of something: the node pauses and reports it, no task is charged."""

import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.e2e.helpers import (
    as_user,
    expect_file,
    external_executor,
    fill,
    is_alive,
    listed,
    ordinary_user,
    python,
    shell,
    small_disk,
    submit_all,
)
from tests.e2e.world import Daemon, World
from tests.eventually import eventually

#: So low a limit of descriptors that there is not another one; those that are open stay so.
NO_MORE = 3


def test_r35_without_a_free_descriptor_the_node_pauses_and_recovers(world: World) -> None:
    with world.daemon() as daemon:
        executor = daemon.executor()
        with _limit(executor, resource.RLIMIT_NOFILE, NO_MORE):
            _submit(world, 3)
            reason = _expect_pause(world, daemon)
            assert "Too many open files" in reason
        _expect_recovery(world, daemon)


def test_r13_r35_without_a_free_descriptor_a_living_tree_is_not_taken_for_gone(
    world: World,
) -> None:
    script = """
        (setsid sh -c 'echo $$ > escaped; exec sleep 1000' &)
        while [ ! -e go ]; do sleep 0.02; done
    """
    with world.daemon() as daemon:
        executor = daemon.executor()
        task_id = world.submit(*shell(script))
        escaped = psutil.Process(int(expect_file(world, "escaped", lines=1)[0]))
        daemon.expect("run.started", task_id=task_id)
        with _limit(executor, resource.RLIMIT_NOFILE, NO_MORE):
            (world.directory / "go").touch()
            eventually(lambda: _assert_exit_recorded(daemon))
            assert ([], True) == (daemon.events("run.settled"), is_alive(escaped))
        daemon.expect("run.settled", task_id=task_id, outcome="succeeded")
        assert not is_alive(escaped)


def _assert_exit_recorded(daemon: Daemon) -> None:
    assert daemon.events("worker.leader_exited") or daemon.events("run.settled")


def test_with_two_free_descriptors_tasks_still_run(world: World) -> None:
    """While it runs its output takes one, and its leader another, if there is one."""
    with world.daemon() as daemon:
        executor = daemon.executor()
        with _limit(executor, resource.RLIMIT_NOFILE, executor.num_fds() + 2):
            task_id = world.submit("sleep", "0.1")
            daemon.expect("run.settled", task_id=task_id, outcome="succeeded")
        assert [] == daemon.events("executor.lost")


def test_a_daemon_without_a_free_descriptor_neither_dies_nor_spins(world: World) -> None:
    with world.daemon() as daemon, closing(socket.socket(socket.AF_UNIX)) as knock:
        process, executor = psutil.Process(daemon.pid), daemon.executor()
        with _limit(process, resource.RLIMIT_NOFILE, NO_MORE):
            executor.kill()
            reason = daemon.expect("daemon.waiting")["reason"]
            knock.connect(str(world.runtime_dir / "control.sock"))
            before = _cpu_seconds(process)
            eventually(lambda: _assert_waited(daemon, 4))  # 0.7 s, as it waits ever longer
            assert _cpu_seconds(process) < before + 0.2
        assert reason.startswith("cannot start an executor: [Errno 24] Too many open files")
        _submit(world, 1)
        daemon.expect("run.settled", outcome="succeeded")


def _assert_waited(daemon: Daemon, times: int) -> None:
    assert times <= len(daemon.events("daemon.waiting")), daemon.output()


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_r35_without_a_free_process_the_node_pauses_and_recovers(world: World) -> None:
    with _executor_of_an_ordinary_user(world) as executor, world.daemon(alone=False) as daemon:
        daemon.expect("executor.connected")
        with _limit(executor, resource.RLIMIT_NPROC, 1):
            _submit(world, 3)
            reason = _expect_pause(world, daemon)
            assert "Resource temporarily unavailable" in reason
        _expect_recovery(world, daemon)


@pytest.mark.parametrize(
    ("short_of", "message"),
    [
        ("files", "cannot open the output file: [Errno 28] No space left on device"),
        ("bytes", "no room for the output: [Errno 28] No space left on device"),
    ],
)
def test_r35_with_a_full_disk_the_node_pauses_and_recovers(
    world: World, short_of: str, message: str
) -> None:
    with small_disk(world, "state") as disk:
        world.configure(store={"url": f"sqlite://{world.directory}/elsewhere/tasks.db"})
        with world.daemon() as daemon:
            daemon.expect("executor.connected")
            filler = fill(disk, short_of)
            _submit(world, 40)
            reason = _expect_pause(world, daemon)
            assert reason.startswith(message)
            for file in filler:
                file.unlink()
            _expect_recovery(world, daemon)


def test_r35_with_no_room_for_the_database_the_daemon_waits_and_nothing_is_lost(
    world: World,
) -> None:
    with small_disk(world, "state") as disk, world.daemon() as daemon:
        first = world.submit(*shell("while [ ! -e go ]; do sleep 0.02; done; exit 7"))
        daemon.expect("run.started", task_id=first)
        filler = fill(disk, "bytes")
        refused = world.cli("submit", "--payload", f'"{"x" * 100_000}"', "--", "true", exits=69)
        (world.directory / "go").touch()
        daemon.expect("store.unavailable")
        for file in filler:
            file.unlink()
        daemon.expect("store.recovered")
        daemon.expect("run.settled", task_id=first, exit_code=7, attempt=1)
        assert {first} == set(listed(world))

    assert "full" in refused.stderr


def test_r35_a_daemon_that_starts_on_a_full_disk_names_the_remedy(world: World) -> None:
    with small_disk(world, "state") as disk:
        task_id = world.submit("true")
        (filler,) = fill(disk, "bytes")
        first = world.cli("run", exits=69).stderr
        filler.unlink()
        world.cli("run", "--drain")
        assert "succeeded" == world.show(task_id)["state"]
        (filler,) = fill(disk, "bytes")
        later = world.cli("run", exits=69).stderr
        filler.unlink()

    assert "node-id: No space left on device; make room on its disk" in first
    assert (
        f"{world.state_dir}/tasks.db: disk I/O error; make room on its disk, which is full" in later
    )


def test_r35_a_daemon_killed_and_started_on_a_full_disk_goes_on_when_room_is_made(
    world: World,
) -> None:
    with small_disk(world, "state") as disk:
        with world.daemon() as killed:
            task_id = world.submit(*shell("while [ ! -e go ]; do sleep 0.02; done; exit 7"))
            killed.expect("run.started", task_id=task_id)
            killed.kill()
        (disk / "control-socket").write_text("/of/another/environment\n")
        (filler,) = fill(disk, "bytes")
        with world.daemon() as daemon:
            assert "No space left" in daemon.expect("control.unannounced")["reason"]
            (world.directory / "go").touch()
            filler.unlink()
            daemon.expect("run.settled", task_id=task_id, exit_code=7, attempt=1)


def test_r35_a_file_that_a_start_cannot_write_on_a_full_disk_is_named_and_tried_again(
    world: World,
) -> None:
    """Exit code 69, after which a service manager tries again."""
    made = {"run": ("lock", "output", "store-id"), "executor": ("executor.lock",)}
    with small_disk(world, "state") as disk:
        world.configure(store={"url": f"sqlite://{world.directory}/elsewhere/tasks.db"})
        world.submit("true")
        world.cli("run", "--drain")
        for verb, names in made.items():
            for name in names:
                world.expect_nobody()  # an open file would give its inode back later
                _remove(disk / name)
                filler = fill(disk, "files")
                message = world.cli(verb, exits=69).stderr
                assert str(disk / name) in message
                assert "No space left on device; make room on its disk" in message
                for file in filler:
                    file.unlink()
                world.cli("run", "--drain")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _submit(world: World, number: int) -> None:
    submit_all(world, *[{"command": ["true"], "max_attempts": 1}] * number)


def _expect_pause(world: World, daemon: Daemon) -> str:
    """Wait for the pause; check that `status` shows the reason, return the reason in the log."""
    daemon.expect("node.paused")
    status = world.cli("status", "--json").json
    shown = world.cli("status").stdout
    reasons = [event["reason"] for event in daemon.events("node.paused")]
    assert ("connected", True) == (status["executor"], status["node"]["paused"] in reasons)
    degraded = "degraded  this node is paused: "
    assert any(f"{degraded}{reason};" in shown for reason in reasons), shown
    assert "degraded" == status["health"]
    return str(reasons[0])


def _expect_recovery(world: World, daemon: Daemon) -> None:
    """Check that all goes on without a command, and that it cost nobody an attempt."""
    daemon.expect("node.resumed")
    eventually(lambda: _assert_all_succeeded(world), every=0.2)
    assert world.cli("status", "--json").json["node"]["paused"] is None
    released = daemon.expect("run.settled", outcome="released")
    task = world.show(released["task_id"])
    assert ("released", None) == (task["runs"][0]["outcome"], task["runs"][0]["pid"])
    assert "succeeded" == task["runs"][-1]["outcome"]


def _assert_all_succeeded(world: World) -> None:
    found = {(task["state"], task["attempts_used"]) for task in listed(world).values()}
    assert {("succeeded", 0)} == found


@contextmanager
def _limit(process: psutil.Process, which: int, soft: int) -> Iterator[None]:
    """Lower a limit of a running process for a while."""
    before = _set_limit(process.pid, which, soft)
    try:
        yield
    finally:
        _set_limit(process.pid, which, before)


def _set_limit(pid: int, which: int, soft: int) -> int:
    """Change a limit as the process's own user would; return what it was."""
    prefix = as_user(psutil.Process(pid).uids().real)
    script = f"""
        import resource
        before = resource.prlimit({pid}, {which})
        resource.prlimit({pid}, {which}, ({soft}, before[1]))
        print(before[0])
    """
    done = subprocess.run([*prefix, *python(script)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@contextmanager
def _executor_of_an_ordinary_user(world: World) -> Iterator[psutil.Process]:
    """Run an executor of a user with no other process: root's are not limited."""
    user = ordinary_user()
    world.state_dir = world.runtime_dir / "state"  # not below the user's who runs pytest
    world.configure(executor={"mode": "external"})
    for directory in (world.runtime_dir, world.state_dir, world.state_dir / "output"):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)  # it stays the daemon's user's, who would become another's
    with external_executor(world, prefix=as_user(user)) as process:
        yield psutil.Process(process.pid)


@pytest.mark.parametrize("replaced", [False, True])
def test_an_output_directory_that_was_removed_is_reported_and_made_again_at_the_next_start(
    world: World, *, replaced: bool
) -> None:
    output = world.state_dir / "output"
    with world.daemon() as daemon:
        daemon.executor()
        shutil.rmtree(output)
        if replaced:
            output.touch()
            task_id = world.submit("echo", "hello")
            _expect_pause(world, daemon)
            printed = world.cli("doctor", exits=1).stdout
            assert f"bad      output           {output} is not a directory; move it away" in printed
            assert "bad      node             workers cannot be started" in printed
            output.unlink()
        else:
            printed = world.cli("doctor").stdout
            assert f"warning  output           {output} was removed" in printed
            task_id = world.submit("echo", "hello")

        world.until(task_id, "succeeded")

    assert "hello\n" == world.cli("logs", task_id).stdout
