"""Whole process trees: whatever a worker does to be left alone, nothing of it is left."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from pysqlite3 import dbapi2 as sqlite3

from dispatcher.model import Outcome
from dispatcher.store.open import open_store
from dispatcher.wire import RunUid
from tests.e2e.helpers import (
    expect_dead,
    expect_file,
    expect_settled,
    is_alive,
    misbehaves,
    python,
    shell,
    submit_all,
)
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually

#: The tree of each of these ignores SIGTERM and hangs: its further behaviour, its processes.
EVASIONS = {
    "nothing": ((), 1),
    "forks": (("--fork", "2"), 3),
    "escapes": (("--escape",), 2),
    "escapes without an environment": (("--escape", "--clear-env"), 2),
    "escapes without an output": (("--escape", "--close-output"), 2),
    "escapes without either": (("--escape", "--clear-env", "--close-output"), 2),
    "escapes without either, below a parent": (
        ("--escape", "--clear-env", "--close-output", "--keep-lineage"),
        3,
    ),
    "stops": (("--escape", "--stop-self"), 2),
}

#: SIGTERM makes its main thread exit, for which the interpreter waits for the other one.
BLOCKED_THREAD = python("""
    import os, signal, sys, threading, time
    if os.environ["DISPATCHER_FENCE"] == "1":
        threading.Thread(target=time.sleep, args=(1000,)).start()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        time.sleep(1000)
""")


def trail(world: World, name: str) -> list[tuple[str, int, int, float]]:
    """Return who stamped a file: role, pid, fence, seconds since the epoch."""
    lines = [line.split() for line in (world.directory / name).read_text().splitlines()]
    return [(role, int(pid), int(fence), float(at)) for role, pid, fence, at in lines]


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def test_ac10_r12_r13_r17_nothing_of_a_silent_worker_lives_when_its_successor_starts(
    world: World,
) -> None:
    world.configure(node={"slots": 8}, leases={"kill_grace": "300ms"})
    lease = {"liveness": "worker", "lease_ttl": "2s"}  # nine interpreters start at once
    stubborn = ("--hang", "--ignore-term", "--times", 1, "--stamp")
    commands = [
        misbehaves(*stubborn, number, *evasion)
        for number, (evasion, _) in enumerate(EVASIONS.values())
    ]
    with world.daemon() as daemon:
        ids = submit_all(world, *({"command": c, **lease} for c in [*commands, BLOCKED_THREAD]))
        expect_settled(daemon, ids, outcome="succeeded")

    for number, (task_id, (name, (_, size))) in enumerate(zip(ids, EVASIONS.items(), strict=False)):
        lost, succeeded = world.show(task_id)["runs"]
        stamps = trail(world, str(number))
        first = [at for _, _, fence, at in stamps if fence == 1]
        assert ("lost", 1, "succeeded", 2) == (
            *(lost["outcome"], lost["fence"]),
            *(succeeded["outcome"], succeeded["fence"]),
        ), name
        assert size == len({pid for _, pid, fence, _ in stamps if fence == 1}), name
        assert max(first) <= seconds(succeeded["started_at"]), name
    runs = world.show(ids[-1])["runs"]
    assert [("lost", signal.SIGKILL), ("succeeded", None)] == [
        (run["outcome"], run["signal"]) for run in runs
    ]


#: Ignores SIGTERM, has a child that does, and one that got away: another session, no environment.
#: A shell's, as two hundred interpreters would take the time that is measured here.
STUBBORN = shell("""
    trap '' TERM
    sleep 1000 &
    (env -i setsid sleep 1000 &)
    echo >> stubborn
    wait
""")


def test_r20_two_hundred_stubborn_trees_expire_at_once_and_hold_up_nobody(world: World) -> None:
    world.configure(node={"slots": 202}, leases={"kill_grace": "2s"})
    task = {"command": STUBBORN, "max_attempts": 1, "liveness": "worker", "lease_ttl": "60s"}
    with world.daemon() as daemon:
        ids = submit_all(world, *[task] * 200)
        expect_file(world, "stubborn", lines=200)
        for task_id in ids:  # a lease begins anew when the start is reported
            daemon.expect("run.started", task_id=task_id)
        with closing(sqlite3.connect(world.state_dir / "tasks.db")) as store, store:
            store.execute("UPDATE runs SET lease_expires_at = 1")
        daemon.expect("run.ending")
        other = world.submit("true")
        expect_settled(daemon, ids, outcome="lost")
        expect_settled(daemon, [other], outcome="succeeded")

        *_, last = daemon.events("run.settled")
        assert last["task_id"] != other
        assert {daemon.pid, daemon.executor().pid} == {p.pid for p in world.processes()}


#: Three hundred processes on three levels, in many sessions; each records its SIGTERMs.
MANY = python("""
    import os, signal, time
    signalled = os.open("signalled", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    signal.signal(signal.SIGTERM, lambda *_: os.write(signalled, b"%d\\n" % os.getpid()))
    for number in range(10):
        if os.fork() == 0:
            if number % 3 == 0:
                os.setsid()
            for number in range(29):
                if os.fork() == 0:
                    if number % 2 == 0:
                        os.setsid()
                    break
            break
    with open("grown", "a") as grown:
        grown.write("one more\\n")
    while not os.path.exists("go"):
        time.sleep(0.1)
""")


def test_each_of_three_hundred_processes_is_signalled_once_and_a_small_run_ends_meanwhile(
    world: World,
) -> None:
    world.configure(leases={"kill_grace": "1h"}, node={"slots": 2})
    with world.daemon() as daemon:
        task_id = world.submit(*MANY)
        expect_file(world, "grown", lines=301)

        world.cli("cancel", task_id)
        signalled = expect_file(world, "signalled", lines=301)
        other = world.submit("true")
        expect_settled(daemon, [other], outcome="succeeded")
        (world.directory / "go").touch()
        expect_settled(daemon, [task_id], outcome="cancelled")

        assert (
            301
            == len(set(signalled))
            == len((world.directory / "signalled").read_text().splitlines())
        )
        assert {daemon.pid, daemon.executor().pid} == {p.pid for p in world.processes()}


def test_r13_a_nested_dispatcher_is_ended_with_everything_below_it(world: World) -> None:
    """Its executor has a session of its own and is a subreaper itself."""
    inner = world.directory / "inner.toml"
    runtime_dir = world.runtime_dir / "inner"
    inner.write_text(
        f'[node]\nstate_dir = "{world.directory}/inner"\nruntime_dir = "{runtime_dir}"\n'
    )
    manners = ("--hang", "--ignore-term", "--escape", "--clear-env", "--stamp", "trail")
    with world.daemon() as daemon:
        world.cli("submit", "--config", inner, "--", *misbehaves(*manners))
        task_id = world.submit(DISPATCHER, "run", "--config", str(inner))
        expect_tree(world, "trail", 2)

        world.cli("cancel", task_id)
        expect_settled(daemon, [task_id], outcome="cancelled")

        assert {daemon.pid, daemon.executor().pid} == {p.pid for p in world.processes()}


def test_a_helper_that_stays_behind_is_found_and_ended(world: World) -> None:
    """It left session and output, as daemons do; one in three also ignores SIGTERM."""
    daemonises = ("--escape", "--close-output", "--stamp")
    agent = shell("eval $(ssh-agent -a agent) > /dev/null && echo agent $SSH_AGENT_PID 1 0 >> 0")
    commands = [
        agent if shutil.which("ssh-agent") else misbehaves(*daemonises, 0),
        misbehaves(*daemonises, 1),
        misbehaves(*daemonises, 2, "--ignore-term"),
    ]
    with world.daemon() as daemon:
        for number, command in enumerate(commands):  # one after the other: whose, nobody can doubt
            task_id = world.submit(*command)
            expect_settled(daemon, [task_id], outcome="succeeded")

            ended = daemon.expect("worker.leftover_ended", task_id=task_id)
            helper = trail(world, str(number))[-1][1]
            assert helper not in {p.pid for p in world.processes()}
            assert ended["names"] in (["ssh-agent"], ["python"], [Path(sys.executable).name])


def test_r19_a_worker_that_declares_its_end_and_stays_is_ended_before_its_successor_starts(
    world: World,
) -> None:
    stays = shell(f"""
        [ $DISPATCHER_FENCE = 2 ] && exit 0
        {sys.executable} -m worker_stub defer --delay 0
        exec {shlex.join(misbehaves("--hang", "--ignore-term", "--escape", "--stamp", "trail"))}
    """)
    with world.daemon() as daemon:
        task_id = world.submit(*stays)
        expect_settled(daemon, [task_id], outcome="succeeded")

    deferred, succeeded = world.show(task_id)["runs"]
    stamps = trail(world, "trail")
    assert ("deferred", signal.SIGKILL) == (deferred["outcome"], deferred["signal"])
    assert 2 == len({pid for _, pid, _, _ in stamps})
    assert max(at for *_, at in stamps) <= seconds(succeeded["started_at"])


def test_ac5_a_worker_whose_claim_was_taken_while_it_stood_still_exits_79_and_changes_nothing(
    world: World,
) -> None:
    """It is out of the executor's reach, as in a container: nobody ended it."""
    beats = [sys.executable, "-m", "worker_stub", "run", "--", "sleep", "1000"]
    script = shell(f"""
        [ $DISPATCHER_FENCE = 2 ] && exec {shlex.join(beats)}
        env -0 > environ.new; mv environ.new environ; sleep 1000
    """)
    with world.daemon() as daemon:
        task_id = world.submit(*script, liveness="worker", lease_ttl="2s")
        expect_file(world, "environ")
        environ = (world.directory / "environ").read_bytes().decode().strip("\0").split("\0")
        stale = subprocess.Popen(
            misbehaves("--stop-self", "--hang"),
            env=dict(variable.split("=", 1) for variable in environ),
            stderr=subprocess.PIPE,
        )
        os.waitid(os.P_PID, stale.pid, os.WSTOPPED | os.WNOWAIT)
        daemon.expect("run.started", task_id=task_id, fence=2)
        eventually(lambda: assert_beaten(world, task_id))
        before = world.show(task_id)

        stale.send_signal(signal.SIGCONT)
        _, message = stale.communicate(timeout=PATIENCE)

        after = world.show(task_id)
        world.cli("cancel", task_id)
        expect_settled(daemon, [task_id], outcome="cancelled")
    assert (79, True) == (stale.returncode, b"superseded" in message)
    same = ("state", "attempts_used", "fence", "deferrals", "orphans")
    assert [before.get(key) for key in same] == [after.get(key) for key in same]
    assert [run["pid"] for run in before["runs"]] == [run["pid"] for run in after["runs"]]
    assert ["lost", None] == [run["outcome"] for run in after["runs"]]


def assert_beaten(world: World, task_id: int) -> None:
    assert world.show(task_id)["runs"][-1]["last_heartbeat_at"]


@pytest.mark.parametrize("moment", ["committed", "signalled", "gone"])
def test_r21_a_daemon_killed_while_it_ends_a_worker_ends_it_once_when_it_is_back(
    world: World, moment: str
) -> None:
    manners = ("--hang", "--ignore-term", "--escape", "--times", 1, "--stamp", "trail")
    with world.daemon() as daemon:
        task_id = world.submit(*misbehaves(*manners), liveness="worker", lease_ttl="2s")
        tree = [psutil.Process(pid) for _, pid in expect_tree(world, "trail", 2)]
        executor = psutil.Process(daemon.executor().pid)
        if moment == "committed":  # nobody reads its `end`, which a new connection drops
            executor.suspend()
            # A daemon whose executor stands still judges no lease: what it would have committed.
            lose(world, task_id)
        daemon.expect("run.ending", ending="lost")
        if moment == "gone":
            daemon.signal(signal.SIGSTOP)
            for process in tree:
                expect_dead(process)
        daemon.kill()
        assert [moment != "gone"] * 2 == [is_alive(process) for process in tree]
    with world.daemon() as daemon:
        world.cli("status")  # so it has connected
        executor.resume()
        expect_settled(daemon, [task_id], outcome="succeeded")

    runs = world.show(task_id)["runs"]
    stamps = trail(world, "trail")
    assert [("lost", 1), ("succeeded", 2)] == [(run["outcome"], run["fence"]) for run in runs]
    first = [at for _, _, fence, at in stamps if fence == 1]
    assert max(first) <= seconds(runs[1]["started_at"])


def lose(world: World, task_id: int) -> None:
    """Begin the ending `lost` of a running task, as the reaper does."""
    uid = RunUid(world.show(task_id)["runs"][-1]["uid"])
    url = f"sqlite://{world.state_dir}/tasks.db"
    mine = open_store(url, state_dir=world.state_dir, patience=PATIENCE)
    with closing(mine) as store, store.transaction() as now:
        assert store.begin_ending(uid, Outcome.LOST, "its lease expired", now=now)


def expect_tree(world: World, name: str, size: int) -> set[tuple[str, int]]:
    """Wait until so many processes have stamped a file; return their roles and pids."""

    def probe() -> set[tuple[str, int]]:
        assert (world.directory / name).exists()
        tree = {(role, pid) for role, pid, _, _ in trail(world, name)}
        assert size == len(tree)
        return tree

    return eventually(probe)
