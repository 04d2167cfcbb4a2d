"""Locally driven workers through the installed command, and every entry point of a heartbeat."""

import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from dispatcher.client import Client
from dispatcher.config.config import load
from dispatcher.words import Refused
from tests.e2e.helpers import shell, stored
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually


def test_ac3_a_claim_is_renewed_and_completed_from_later_shells(world: World) -> None:
    world.submit("true")
    world.cli("claim", "--lock-file", "lock")
    _execute(world, "UPDATE runs SET lease_expires_at = 1, takeover_at = 1")

    world.cli("heartbeat", "--task", 1, "--lock-file", "lock")

    with world.daemon() as daemon:  # it would take back at once what was not renewed
        daemon.expect("executor.connected")
        missing = world.cli("heartbeat", "--task", 1, exits=2).stderr
        world.cli("complete", "--task", 1, "--lock-file", "lock")

        (run,) = world.show(1)["runs"]
        assert ("succeeded", 1) == (run["outcome"], run["fence"])
        assert run["node"].startswith("local:")
        assert "no lock for task 1" in missing


def test_one_shell_drives_a_task_with_what_claim_exports(world: World) -> None:
    task = world.submit("true")
    script = """
        set -e
        eval "$(dispatcher claim --export)"
        dispatcher heartbeat --progress 0.5
        dispatcher complete --result '{"fence": '$DISPATCHER_FENCE'}'
    """
    path = f"{Path(DISPATCHER).parent}:{world.env['PATH']}"

    subprocess.run(shell(script), env={**world.env, "PATH": path}, check=True, timeout=PATIENCE)

    (run,) = world.show(task)["runs"]
    assert ({"fence": 1}, 0.5) == (run["result"], run["progress"])


def test_the_workers_half_speaks_for_a_local_claim_too(world: World) -> None:
    world.submit("true")
    lines = world.cli("claim", "--export").stdout.splitlines()
    words = [shlex.split(line) for line in lines]
    exported = dict(line[1].split("=", 1) for line in words if line[0] == "export")
    with world.daemon() as daemon:
        daemon.expect("executor.connected")
        for words in (["heartbeat"], ["succeed", "--result", "7"]):
            subprocess.run(
                [sys.executable, "-m", "worker_stub", *words],
                env={**world.env, **exported},
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=PATIENCE,
            )

        (run,) = world.until(1, "succeeded")["runs"]
        assert (7, "succeeded") == (run["result"], run["outcome"])
        assert run["last_heartbeat_at"] is not None


def test_a_silent_local_claim_is_lost_and_its_task_run_by_the_daemon(world: World) -> None:
    world.configure(leases={"reap_interval": "200ms"})
    task = world.submit("true")
    lock = world.cli("claim", "--ttl", "1s", "--json").json["lock"]
    with world.daemon() as daemon:
        shown = world.until(task, "succeeded")

        assert [("lost", 1), ("succeeded", 2)] == [
            (run["outcome"], run["fence"]) for run in shown["runs"]
        ]
        assert 1 == shown["attempts_used"]
        assert (
            daemon.expect("claim.taken_over", task_id=task, fence=1)["owner"]
            == (shown["runs"][0]["node"])
        )
        refused = world.cli("heartbeat", "--task", task, "--lock", lock, "--json", exits=79).json
        assert ("not_running", "succeeded") == (refused["error"], refused["state"])


# A worker's own run, spoken for over every entry point -------------------------------------

SendBeat = Callable[[str], bool | str]


def by_cli(world: World, task: int) -> SendBeat:
    def send(lock: str) -> bool | str:
        line = ["heartbeat", "--task", task, "--lock", lock, "--json"]
        done = subprocess.run(
            [DISPATCHER, *map(str, line)], env=world.env, capture_output=True, check=False
        )
        answer = json.loads(done.stdout)
        assert (0 if answer["ok"] else 79) == done.returncode
        return True if answer["ok"] else str(answer["error"])

    return send


def by_client(world: World, task: int) -> SendBeat:
    def send(lock: str) -> bool | str:
        with Client(load(str(world.config_file))) as client:
            answer = client.heartbeat(task, lock=lock)
        return str(answer.error) if isinstance(answer, Refused) else True

    return send


def by_socket(world: World, task: int) -> SendBeat:
    def send(lock: str) -> bool | str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(world.runtime_dir / "worker.sock"))
            request = {"op": "heartbeat", "task_id": task, "lock": lock}
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
        return True if answer["ok"] else str(answer["error"])

    return send


def test_ac1_ac4_ac7_r01_every_entry_point_is_the_one_operation(world: World) -> None:
    with world.daemon() as daemon:
        gate = world.directory / "gate"
        waits = shell(f"while ! [ -e {gate} ]; do sleep 0.05; done")
        task = world.submit(*waits, lease_ttl="1h")
        daemon.expect("run.started")  # which begins the lease anew
        ((lock,),) = stored(world, "SELECT lock FROM runs WHERE outcome IS NULL")
        for entry in (by_cli, by_client, by_socket):
            send = entry(world, task)
            # A `process` lease is the daemon's to renew in 20 min: what moves it now is the beat.
            _execute(world, "UPDATE runs SET lease_expires_at = 1, last_heartbeat_at = NULL")
            for wrong in (lock[:-1], lock + "0", lock.upper() + "A"):
                assert "not_owner" == send(wrong), entry.__name__
            assert [(1, None)] == _lease(world), entry.__name__

            assert send(lock) is True, entry.__name__

            ((expiry, beat),) = _lease(world)
            assert expiry / 1000 > time.time() + 30, entry.__name__
            assert beat is not None, entry.__name__
            assert "unknown_task" == entry(world, task + 9)(lock)
        gate.touch()
        assert 1 == len(world.until(task, "succeeded")["runs"])
        for entry in (by_cli, by_client, by_socket):
            assert "not_running" == entry(world, task)(lock)


def _lease(world: World) -> list[tuple[Any, ...]]:
    return stored(
        world, "SELECT lease_expires_at, last_heartbeat_at FROM runs WHERE outcome IS NULL"
    )


def _execute(world: World, statement: str) -> None:
    with closing(sqlite3.connect(world.state_dir / "tasks.db", timeout=PATIENCE)) as store, store:
        store.execute(statement)


@pytest.mark.parametrize("verb", ["complete", "fail"])
def test_r19_a_workers_run_is_declared_by_command_line_and_ended_after_its_grace(
    world: World, verb: str
) -> None:
    with world.daemon() as daemon:
        task = world.submit("sleep", "60", max_attempts=1)
        world.until(task, "running")
        daemon.expect("run.started")
        ((lock,),) = stored(world, "SELECT lock FROM runs WHERE outcome IS NULL")

        more = ["--reason", "no"] if verb == "fail" else []
        world.cli(verb, "--task", task, "--lock", lock, *more)

        state = {"complete": "succeeded", "fail": "failed"}[verb]
        assert [state] == [run["outcome"] for run in world.until(task, state)["runs"]]
        eventually(lambda: _none([p for p in world.processes() if p.name() == "sleep"]))


def _none(found: list[Any]) -> None:
    assert [] == found


def test_the_daemon_is_found_from_another_environment(world: World) -> None:
    """Its runtime directory follows from $XDG_RUNTIME_DIR, which cron and sudo leave out."""
    xdg = world.runtime_dir / "xdg"
    xdg.mkdir()
    text = world.config_file.read_text().replace("runtime_dir", "# runtime_dir")
    # Of a length that leaves room for the sockets if $XDG_RUNTIME_DIR is not set.
    short = str(world.runtime_dir / "state")
    world.config_file.write_text(text.replace(str(world.state_dir), short))
    with world.daemon(env={"XDG_RUNTIME_DIR": str(xdg)}) as daemon:
        daemon.expect("executor.connected")

        status = world.cli("status", "--json").json

        assert ("running", daemon.pid) == (status["daemon"], status["daemon_pid"])
    assert "not running" == world.cli("status", "--json").json["daemon"]


def test_a_queue_for_claims_by_hand_is_left_alone_by_a_running_daemon(world: World) -> None:
    """Also a lost claim, also at a drain, and only while the configuration requires it."""
    world.configure(leases={"reap_interval": "200ms"}, **{"queues.reviews": {"concurrency": 0}})
    task = world.submit("true", queue="reviews")
    with world.daemon() as daemon:
        other = world.submit("true")
        world.until(other, "succeeded")
        lock = world.cli("claim", "--queue", "reviews", "--ttl", "300ms", "--json").json["lock"]
        daemon.expect("claim.taken_over", task_id=task)
        world.until(task, "ready")
        explained = world.cli("why", task).stdout
        assert "its queue reviews is for local claims here" in explained
        assert "dispatcher claim --queue reviews" in explained
        status = world.cli("status", "--json").json
        assert ("ok", {"queue_full": 1}) == (status["health"], status["waiting"])
        lock = world.cli("claim", "--queue", "reviews", "--ttl", "1m", "--json").json["lock"]
        world.cli("complete", "--task", task, "--lock", lock)
        runs = world.show(task)["runs"]
        assert ["lost", "succeeded"] == [run["outcome"] for run in runs]
        assert all(run["node"].startswith("local:") for run in runs)

        later = world.submit("true", queue="reviews")
        world.configure()
        world.cli("reload")
        world.until(later, "succeeded")
        world.configure(**{"queues.reviews": {"concurrency": 0}})
        world.cli("reload")
        last = world.submit("true", queue="reviews")
        world.until(world.submit("true"), "succeeded")
        assert "ready" == world.show(last)["state"]

    assert "is for local claims here" in world.cli("why", last).stdout
    world.cli("claim", "--task", last)
    world.submit("true", queue="reviews", delay="1h")
    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()
