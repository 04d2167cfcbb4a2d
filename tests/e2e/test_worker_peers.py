"""Peers of the worker socket: only the users of daemon and runs, and the log names the pid."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.e2e.beating import LEASE, beating
from tests.e2e.helpers import as_user, external_executor, ordinary_user, python, stored
from tests.e2e.world import World


def line(world: World, task_id: int, **words: object) -> bytes:
    ((lock,),) = stored(
        world, f"SELECT lock FROM runs WHERE task_id = {task_id} AND outcome IS NULL"
    )
    return json.dumps({"op": "heartbeat", "task_id": task_id, "lock": lock, **words}).encode()


def another_user() -> int:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    return ordinary_user()


def test_the_pid_of_each_declaration_and_refusal_is_logged(world: World) -> None:
    with world.daemon() as daemon:
        declares = world.submit(sys.executable, "-m", "worker_stub", "succeed")
        worker = daemon.expect("run.settled", task_id=declares, outcome="succeeded")["pid"]
        declared = daemon.expect("run.declared", task_id=declares, declared="succeed")

        other = world.submit("sleep", "1000")
        daemon.expect("run.started", task_id=other)
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(world.runtime_dir / "worker.sock"))
            stream.sendall(line(world, other, lock="not its own") + b"\n")
            assert b"not_owner" in stream.recv(4096)
        refused = daemon.expect("lease.refused", task_id=other)
        world.cli("cancel", other)

    assert (worker, os.getpid()) == (declared["peer_pid"], refused["peer_pid"])


def test_another_user_is_refused_whatever_it_knows_and_its_uid_and_pid_are_logged(
    world: World,
) -> None:
    """The socket's mode keeps others out; that one may be changed, and a directory shared."""
    user = another_user()
    script = """
        import contextlib, os, socket, sys
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(sys.argv[1])
            with contextlib.suppress(ConnectionError):
                stream.sendall(sys.argv[2].encode() + b"\\n")
            print(os.getpid(), stream.recv(4096))
    """
    with world.daemon() as daemon:
        task_id = world.submit("sleep", "1000", liveness="worker", lease_ttl="1h")
        daemon.expect("run.started", task_id=task_id)
        path = world.runtime_dir / "worker.sock"
        world.runtime_dir.chmod(0o711)
        path.chmod(0o666)
        words = line(world, task_id, op="fail", reason="sabotage").decode()
        command = [*as_user(user), *python(script), str(path), words]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        pid, _, answer = result.stdout.strip().partition(" ")
        refused = daemon.expect("peer.refused", peer_uid=user)
        assert "running" == world.show(task_id)["state"]
        world.cli("cancel", task_id)

    assert (int(pid), [0]) == (refused["peer_pid"], refused["allowed"])
    assert '"error":"not_allowed"' in answer


def test_beats_of_an_executor_of_another_user_are_accepted(world: World) -> None:
    user = another_user()
    world.configure(executor={"mode": "external"})
    for directory in (world.state_dir, world.state_dir / "output", world.runtime_dir):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)  # it stays the daemon's user's, who would become another's
    task_id = world.submit(*beating(), **LEASE)

    with (
        external_executor(world, prefix=as_user(user), alone=False),
        world.daemon(alone=False) as daemon,
    ):
        daemon.expect("lease.renewed", task_id=task_id)
        (world.directory / "stop").touch()
        daemon.expect("run.settled", task_id=task_id, outcome="succeeded")
        assert [] == daemon.events("peer.refused")
