"""In a pid namespace whose init reaps, as on a real host: pids are given away again."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.helpers import expect_file, python, shell
from tests.e2e.users import belongs_to_a_user
from tests.e2e.world import DISPATCHER, Daemon, World
from tests.eventually import eventually
from tests.system.places import Elsewhere, Namespace
from tests.system.test_hidden_processes import NOT_DUMPABLE, leaves_hidden_survivor

#: Few enough to come round within a second.
FEW_PIDS = 400

#: Its child has no environment and no output, and stays in the session of a leader that exits.
LEAVES_A_CHILD = """
    if [ $DISPATCHER_FENCE != 1 ]; then
        kill -0 $(cat child) 2> /dev/null && echo twin > twin
        exit 0
    fi
    until [ -e go ]; do sleep 0.02; done
    env -i sh -c 'exec <&- > /dev/null 2>&1
        echo $$ > child.new; mv child.new child
        while :; do sleep 0.05; done' &
    sleep 2
"""


def test_a_child_in_the_session_of_a_reaped_leader_is_swept_before_its_task_runs_again(
    elsewhere: Elsewhere,
) -> None:
    world, namespace = elsewhere, elsewhere.namespace
    with world.daemon() as daemon:
        task_id = world.submit(*shell(LEAVES_A_CHILD))
        started = daemon.expect("run.started", task_id=task_id)
        (world.directory / "go").touch()  # its child starts after the last line of the journal
        child = int(expect_file(world, "child", lines=1)[0])
        kill_both(namespace, daemon)
    eventually(lambda: expect_nobody_has(namespace, started["pid"]))
    assert namespace.process(child) is not None

    with world.daemon() as daemon:
        daemon.expect("run.settled", task_id=task_id, fence=2, outcome="succeeded")

        assert not (world.directory / "twin").exists(), "it lived during its successor"
        assert namespace.process(child) is None


def kill_both(namespace: Namespace, daemon: Daemon) -> None:
    executor = namespace.process(daemon.expect("executor.connected")["executor_pid"])
    assert executor is not None
    executor.suspend()  # or it would see its daemon go
    daemon.kill()
    executor.kill()


def expect_nobody_has(namespace: Namespace, pid: int) -> None:
    assert namespace.process(pid) is None, f"{pid} was not reaped"


@pytest.fixture
def small(privileged: None) -> Iterator[Namespace]:
    with Namespace(pid_max=FEW_PIDS) as namespace:
        yield namespace


@pytest.fixture
def crowded(tmp_path: Path, bytecode: Path, small: Namespace) -> Iterator[Elsewhere]:
    """A world in a pid namespace with few pids."""
    world = Elsewhere(tmp_path, bytecode, small)
    try:
        yield world
    finally:
        world.close()


#: Leaves a server of its own session behind, and so frees its own pid.
SERVES = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1000"])
    os._exit(0)
os.wait()
"""

#: Forks until a child has the given pid. That child leads a session, and has no environment
#: and no output; its parent exits at once, so that nobody has seen them together.
DAEMON_WITH_PID = """
import os
wanted = {pid}
while True:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if os.getpid() != wanted:
            os._exit(0)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.set_inheritable(writer, False)
        os.execve("/bin/sleep", ["sleep", "1000"], {{}})
    os.close(writer)
    if child == wanted:
        os.read(reader, 1)  # until the exec closes the other end
        os._exit(0)
    os.close(reader)
    os.waitpid(child, 0)
"""


def test_a_hidden_survivor_is_swept_after_the_pids_have_come_round(
    tmp_path: Path, bytecode: Path, privileged: None
) -> None:
    """Pids were probed up to the last one that was given out: a twin ran meanwhile."""
    with Namespace(pid_max=1200) as namespace:
        world = Elsewhere(tmp_path, bytecode, namespace)
        belongs_to_a_user(world)
        try:
            namespace.run("mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc")
            namespace.run("sh", "-c", "until [ $(sh -c 'echo $$') -gt 900 ]; do :; done")
            (world.directory / "hidden.py").write_text(NOT_DUMPABLE)
            with world.daemon(alone=False) as daemon:
                task_id = world.submit(*leaves_hidden_survivor())
                expect_file(world, "there")
                kill_both(namespace, daemon)
            namespace.run("sh", "-c", "until [ $(sh -c 'echo $$') -lt 500 ]; do :; done")
            with world.daemon(alone=False) as daemon:
                daemon.expect("run.settled", task_id=task_id, fence=2, outcome="succeeded")
            assert "gone\n" == world.show(task_id)["runs"][1]["output_tail"]
        finally:
            world.close()


def test_a_daemon_with_the_pid_of_a_run_that_left_a_server_behind_ends_with_its_own_run(
    crowded: Elsewhere,
) -> None:
    world, namespace = crowded, crowded.namespace
    world.config_file.write_text(
        world.config_file.read_text()
        + f'[profiles.server]\ncommand = {json.dumps(python(SERVES))}\nleftovers = "report"\n'
    )
    with world.daemon(alone=False) as daemon:
        serving = world.cli("submit", "--profile", "server").id
        daemon.expect("worker.leftover_reported", task_id=serving)
        leader = daemon.expect("run.started", task_id=serving)["pid"]
        expect_nobody_has(namespace, leader)
        (server,) = sleepers(namespace)

        task_id = world.submit(*python(DAEMON_WITH_PID.format(pid=leader)))
        daemon.expect("run.settled", task_id=task_id, outcome="succeeded")

        assert namespace.process(leader) is None, "its daemon outlived it"
        assert [server] == sleepers(namespace)
        ended = daemon.expect("worker.leftover_ended", task_id=task_id)
        assert ["sleep"] == ended["names"]


def sleepers(namespace: Namespace) -> list[int]:
    return [process.pid for process in namespace.processes() if process.name() == "sleep"]


def expect_in(world: World, name: str, word: str) -> None:
    assert word in (world.directory / name).read_text(), word


@pytest.mark.parametrize("mode", ["embedded", "external"])
def test_as_the_init_of_a_container_it_leaves_no_zombie(
    tmp_path: Path, bytecode: Path, privileged: None, mode: str
) -> None:
    """Daemon or executor is pid 1, and what `docker exec` leaves behind becomes its child."""
    world = World(tmp_path, bytecode)
    world.configure(executor={"mode": mode})
    init = [DISPATCHER, "run" if mode == "embedded" else "executor"]
    with (tmp_path / "init.log").open("wb") as log:
        process = world.process_of(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *init],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=world.env,
        )
    try:
        started = "daemon.started" if mode == "embedded" else "executor.started"
        eventually(lambda: expect_in(world, "init.log", started))
        (first,) = psutil.Process(process.pid).children()
        left = ["nsenter", f"--target={first.pid}", "--pid", "--mount"]
        for _ in range(3):
            subprocess.run([*left, "sh", "-c", "sleep 0.2 &"], check=True)

        def probe() -> None:
            assert "sleep" not in [child.name() for child in first.children()]

        eventually(probe)
        if mode == "embedded":
            world.until(world.submit("true"), "succeeded")
        first.terminate()
        assert 0 == process.wait(20)
    finally:
        process.kill()
        process.wait()
        world.close()
