"""Leases through the installed command: workers that beat, fall silent, declare, come too late."""

import json
import signal
import sys
import time
from pathlib import Path

import psutil
from pysqlite3 import dbapi2 as sqlite3

from dispatcher.times import from_iso
from tests.e2e.helpers import is_alive, shell
from tests.e2e.world import World
from tests.eventually import PATIENCE, eventually, let_pass

#: Sends a line to the daemon and prints the answer; `LOCK` may be changed before.
SEND = """
import json, os, socket, sys, time
LOCK = os.environ["DISPATCHER_CLAIM_LOCK"]
TASK = int(os.environ["DISPATCHER_TASK_ID"])
FENCE = os.environ["DISPATCHER_FENCE"]
def send(**words):
    answer = {"error": "store_unavailable"}
    while answer.get("error") == "store_unavailable":  # for that nobody stops
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.environ["DISPATCHER_SOCKET"])
            s.sendall(json.dumps({"task_id": TASK, "lock": LOCK, **words}).encode() + b"\\n")
            answer = json.loads(s.makefile().readline())
    print(json.dumps(answer), flush=True)
    return answer
"""

WORKER = {"liveness": "worker", "lease_ttl": "1s"}


def answers(world: World, task_id: int) -> list[dict[str, object]]:
    """Return what the last run's worker was answered."""
    return [json.loads(line) for line in world.cli("logs", task_id).stdout.splitlines()]


def script(world: World, text: str) -> list[str]:
    """Return the command of a worker that can `send` requests."""
    file = world.directory / "worker.py"
    file.write_text(SEND + text, "utf-8")
    return [sys.executable, str(file)]


def test_ac9_a_worker_that_beats_outlives_its_lease(world: World) -> None:
    beats = """
for _ in range(10):
    assert send(op="heartbeat", progress=0.5, note="working")["ok"]
    time.sleep(0.3)
"""
    with world.daemon() as daemon:
        task_id = world.submit(*script(world, beats), **WORKER)
        task = world.until(task_id, "succeeded")

        (run,) = task["runs"]
        assert 1.0 == answers(world, task_id)[0]["lease_expires_in"]
        assert (0.5, "working") == (run["progress"], run["note"])
        assert run["last_heartbeat_at"] > run["started_at"]
        assert [] == daemon.events("lease.expired")


def test_ac10_r12_a_silent_worker_is_lost_not_before_its_ttl_and_never_has_a_twin(
    world: World,
) -> None:
    stamps = world.directory / "stamps"
    stubborn = f"""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def stamp(what):
    with open({str(stamps)!r}, "a") as f: f.write(f"{{what}} {{FENCE}} {{time.monotonic()}}\\n")
stamp("start")
if FENCE == "1":
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                stamp("child"); time.sleep(0.05)
    while True:
        stamp("alive"); time.sleep(0.05)
"""
    with world.daemon() as daemon:
        task_id = world.submit(*script(world, stubborn), **WORKER)
        task = world.until(task_id, "succeeded")

        assert [("lost", 1), ("succeeded", 2)] == [
            (run["outcome"], run["fence"]) for run in task["runs"]
        ]
        assert 1 == task["attempts_used"]
        expired = daemon.expect("lease.expired", fence=1)
        lost = task["runs"][0]
        assert from_iso(expired["timestamp"]) - from_iso(lost["claimed_at"]) >= 1_000
    lines = [line.split() for line in stamps.read_text().splitlines()]
    last_of_first = max(float(at) for _, fence, at in lines if fence == "1")
    first_of_second = min(float(at) for _, fence, at in lines if fence == "2")
    assert last_of_first < first_of_second


def test_ac1_a_lease_rewound_by_hand_is_moved_forward_by_the_next_beat(world: World) -> None:
    beats = """
while not os.path.exists("stop"):
    assert send(op="heartbeat")["ok"]
    time.sleep(0.05)
"""
    with world.daemon():
        command = script(world, beats)
        task_id = world.submit(*command, liveness="worker", lease_ttl="2h")
        world.until(task_id, "running")
        eventually(lambda: _require(answers(world, task_id)))
        for _ in range(5):
            with sqlite3.connect(world.state_dir / "tasks.db", timeout=PATIENCE) as store:
                # Just ahead: the reaper would be right to take what has expired already.
                store.execute("UPDATE runs SET lease_expires_at = lease_expires_at - 3600000")
            store.close()
            eventually(lambda: _require(_lease_left(world, task_id) > 5400))
        Path(world.directory, "stop").touch()

        assert 1 == len(world.until(task_id, "succeeded")["runs"])


def _require(truth: object) -> None:
    assert truth


def _lease_left(world: World, task_id: int) -> float:
    store = sqlite3.connect(f"file:{world.state_dir / 'tasks.db'}?mode=ro", uri=True)
    query = "SELECT lease_expires_at FROM runs WHERE task_id = ? AND outcome IS NULL"
    ((expiry,),) = store.execute(query, (task_id,)).fetchall()
    store.close()
    return float(expiry) / 1000 - time.time()


def test_ac2_wrong_locks_are_refused_and_the_worker_itself_is_not(world: World) -> None:
    tries = """
mine = LOCK
for LOCK in (mine[:-1], mine + "0", mine.upper() + "A", "", " " + mine):
    assert send(op="heartbeat")["error"] == "not_owner"
LOCK = mine
TASK += 1000
assert send(op="heartbeat")["error"] == "unknown_task"
TASK -= 1000
assert send(op="dance")["error"] == "invalid"
assert send(op="heartbeat", progress=7)["error"] == "invalid"
assert send(op="heartbeat")["ok"]
"""
    with world.daemon():
        task_id = world.submit(*script(world, tries), **WORKER)

        assert "succeeded" == world.until(task_id, "succeeded", "scheduled")["state"]


def test_ac5_a_worker_that_was_stopped_past_its_lease_changes_nothing_when_it_goes_on(
    world: World,
) -> None:
    """Its group was ended while it was stopped: a stopped process dies of SIGKILL all the same."""
    stopped = """
import signal
if FENCE == "1":
    os.kill(os.getpid(), signal.SIGSTOP)
    send(op="succeed", result="stale")
"""
    with world.daemon():
        task_id = world.submit(*script(world, stopped), **WORKER)

        task = world.until(task_id, "succeeded")

        assert ["lost", "succeeded"] == [run["outcome"] for run in task["runs"]]
        assert [None, None] == [run["result"] for run in task["runs"]]


def test_a_workers_declaration_outranks_its_exit_code(world: World) -> None:
    with world.daemon():
        fine = world.submit(*script(world, 'send(op="succeed", result={"n": 3}); sys.exit(9)'))
        world.until(fine, "succeeded")
        bad = world.submit(*script(world, 'send(op="fail", reason="no", retry=False)'))
        world.until(bad, "failed")
        stuck = world.submit(*script(world, 'send(op="hold", reason="look"); time.sleep(99)'))

        (run,) = world.show(fine)["runs"]
        assert ({"n": 3}, 9) == (run["result"], run["exit_code"])
        assert 1 == world.show(bad)["attempts_used"]
        assert "held" == world.until(stuck, "held")["state"]


def test_r05_r28_the_sdk_keeps_the_lease_of_a_blocked_worker_and_hides_the_lock(
    world: World,
) -> None:
    blocked = """
import subprocess, sys, time
from worker_stub import Worker
with Worker() as worker:
    worker.progress(0.5, "blocked")
    time.sleep(1.5)
    print(subprocess.run(["env"], capture_output=True, text=True).stdout)
"""
    with world.daemon():
        task_id = world.submit(sys.executable, "-c", blocked, **WORKER)

        (run,) = world.until(task_id, "succeeded")["runs"]

        assert (0.5, "blocked") == (run["progress"], run["note"])
        printed = world.cli("logs", task_id).stdout
        assert "DISPATCHER_FENCE=1" in printed
        assert "DISPATCHER_CLAIM_LOCK" not in printed


def test_a_wrapped_command_beats_without_knowing_it(world: World) -> None:
    wrap = [sys.executable, "-m", "worker_stub", "run", "--"]
    with world.daemon():
        fine = world.submit(*wrap, "sleep", "1.5", **WORKER)
        bad = world.submit(*wrap, "sh", "-c", "exit 7", max_attempts=1, **WORKER)

        assert 1 == len(world.until(fine, "succeeded")["runs"])
        assert 7 == world.until(bad, "failed")["runs"][0]["exit_code"]


def test_r28_a_wrapped_command_gets_the_lock_only_by_request(world: World) -> None:
    wrap = [sys.executable, "-m", "worker_stub", "run"]
    with world.daemon():
        without = world.submit(*wrap, "--", "env", **WORKER)
        with_it = world.submit(*wrap, "--pass-lock", "--", "env", **WORKER)
        for task_id in (without, with_it):
            world.until(task_id, "succeeded")

        assert "DISPATCHER_CLAIM_LOCK" not in world.cli("logs", without).stdout
        assert "DISPATCHER_CLAIM_LOCK" in world.cli("logs", with_it).stdout


def test_ac11_a_worker_gets_its_ttl_and_its_interval(world: World) -> None:
    prints = 'echo "$DISPATCHER_LEASE_TTL $DISPATCHER_HEARTBEAT_INTERVAL"'
    with world.daemon():
        tasks = [
            world.submit("sh", "-c", prints, lease_ttl="9s"),
            world.submit("sh", "-c", prints, liveness="worker"),
        ]
        for task_id, expected in zip(tasks, ["9 3.000", "900 300.000"], strict=True):
            world.until(task_id, "succeeded")
            assert expected == world.cli("logs", task_id).stdout.strip()


def test_a_worker_goes_on_beating_over_a_restart_of_the_daemon(world: World) -> None:
    wrap = [sys.executable, "-m", "worker_stub", "run", "--"]
    with world.daemon() as daemon:
        task_id = world.submit(*wrap, *shell("until [ -e stop ]; do sleep 0.05; done"), **WORKER)
        daemon.expect("lease.renewed", task_id=task_id)
        executor = daemon.executor()
        daemon.kill()
    with world.daemon() as daemon:
        daemon.expect("executor.connected")
        let_pass(1.2)  # longer than a lease
        (world.directory / "stop").touch()
        assert 1 == len(world.until(task_id, "succeeded")["runs"])
        assert executor == daemon.executor()


def test_an_executor_that_is_stopped_for_long_costs_nobody_a_lease(world: World) -> None:
    wrap = [sys.executable, "-m", "worker_stub", "run", "--"]
    with world.daemon() as daemon:
        beating = world.submit(*wrap, "sleep", "2", **WORKER)
        plain = world.submit("sleep", "2", lease_ttl="1s")
        for task_id in (beating, plain):
            daemon.expect("run.started", task_id=task_id)
        executor = psutil.Process(daemon.executor().pid)
        executor.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: _require(not _alive(world, "sleep")))
            assert [] == daemon.events("lease.expired")
        finally:
            executor.send_signal(signal.SIGCONT)

        for task_id in (beating, plain):
            task = world.until(task_id, "succeeded")
            assert (1, 0) == (len(task["runs"]), task["attempts_used"])


def _alive(world: World, name: str) -> list[psutil.Process]:
    return [one for one in world.processes() if is_alive(one) and one.name() == name]
