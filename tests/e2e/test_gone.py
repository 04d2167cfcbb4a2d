"""A run is gone when that is proved: nothing starts while something of it may live."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.helpers import expect_dead, expect_file, expect_settled, is_alive, python, shell
from tests.e2e.world import World
from tests.eventually import eventually

#: Leaves everything by which a process can be found but its mark, and writes who it is.
ESCAPES = """
    (env -i setsid sh -c 'exec <&- >/dev/null 2>&1; echo $$ > escaped.new
        mv escaped.new escaped; exec sleep 1000' &)
    while [ ! -e escaped ]; do sleep 0.01; done
"""


def escaped(world: World) -> psutil.Process:
    return psutil.Process(int(expect_file(world, "escaped")[0]))


def test_a_refused_start_hides_no_earlier_run_that_may_still_write(world: World) -> None:
    """Fences 3 to 5 started under a locked output of fence 1: only the last run was checked."""
    with world.daemon() as daemon:
        fails = shell("until [ -e go ]; do sleep 0.02; done; echo x; exit 1")
        task_id = world.submit(*fails, max_attempts=5)
        daemon.expect("run.started", task_id=task_id)
        world.cli("pause", "default")  # so that its second run waits for what follows
        (world.directory / "go").touch()
        expect_settled(daemon, [task_id], outcome="failed")
        (first,) = world.show(task_id)["runs"]
        output = world.state_dir / "output" / f"{first['uid']}.log"
        holder = subprocess.Popen(["flock", "--no-fork", str(output), "sleep", "1000"])
        try:
            eventually(lambda: expect_locked(output))
            world.cli("resume", "default")
            for fence in (2, 3):
                settled = daemon.expect("run.settled", task_id=task_id, fence=fence)
                assert "released" == settled["outcome"]
                assert str(output) in settled["reason"]
        finally:
            holder.kill()
            holder.wait()
        eventually(lambda: assert_started_again(world, task_id))

    runs = world.show(task_id)["runs"]
    assert [1, 1] == [run["attempt"] for run in runs if run["outcome"] != "released"][:1] * 2
    assert {"released"} == {run["outcome"] for run in runs if run["started_at"] is None}


def expect_locked(file: Path) -> None:
    assert subprocess.run(["flock", "--nonblock", str(file), "true"], check=False).returncode


def assert_started_again(world: World, task_id: int) -> None:
    runs = world.show(task_id)["runs"]
    assert 2 <= len([run for run in runs if run["started_at"] is not None])


def test_r13_an_escapee_with_nothing_but_its_mark_ends_with_its_run_and_is_not_a_stray(
    world: World,
) -> None:
    """Another run lives, so that only the mark identifies its run."""
    with world.daemon() as daemon:
        other = world.submit("sleep", "1000")
        daemon.expect("run.started", task_id=other)
        task_id = world.submit(*shell(ESCAPES + "exit 1"), max_attempts=1)
        process = escaped(world)
        expect_settled(daemon, [task_id], outcome="failed")

        assert not is_alive(process)
        assert [] == daemon.events("worker.stray")
        ended = daemon.expect("worker.leftover_ended", task_id=task_id)
        assert ["sleep"] == ended["names"]
        world.cli("cancel", other)
        expect_settled(daemon, [other])


#: The same, and the lock on its output is gone too.
UNLOCKS = """
    (env -i setsid sh -c 'flock -u 1; echo $$ > escaped.new
        mv escaped.new escaped; exec sleep 1000' &)
    while [ ! -e escaped ]; do sleep 0.01; done
"""


@pytest.mark.parametrize(
    ("drops", "journal"),
    [(ESCAPES, "whole"), (UNLOCKS, "whole"), (ESCAPES, "missing"), (ESCAPES, "damaged")],
    ids=["escaped", "without a lock", "no journal", "damaged journal"],
)
def test_r13_r48_a_survivor_of_daemon_and_executor_is_swept_by_its_mark_before_the_next_run(
    world: World, drops: str, journal: str
) -> None:
    """An idle journal is old, the leader is gone, and a session proves nothing."""
    script = shell(f"[ $DISPATCHER_FENCE = 2 ] && {{ {ALIVE}; exit; }}; {drops} sleep 1000")
    with world.daemon() as daemon:
        task_id = world.submit(*script)
        process = escaped(world)
        executor = daemon.executor()
        daemon.kill()
        executor.kill()
    assert is_alive(process)
    if journal != "whole":
        (world.state_dir / "executor.journal").unlink()
    if journal == "damaged":
        (world.state_dir / "executor.journal").write_bytes(b"\xff\xff\n")
    with world.daemon() as daemon:
        expect_settled(daemon, [task_id], outcome="succeeded")

    runs = world.show(task_id)["runs"]
    assert ["orphaned", "succeeded"] == [run["outcome"] for run in runs]
    assert "gone\n" == runs[1]["output_tail"]
    expect_dead(process)


#: Prints whether the process that escaped from fence 1 still lives.
ALIVE = "grep -sq '^State:.[^Z]' /proc/$(cat escaped)/status && echo alive || echo gone"


def test_a_process_that_set_the_limit_itself_is_found_by_its_other_signs(world: World) -> None:
    program = python("""
        import os, resource, time
        resource.setrlimit(resource.RLIMIT_RTTIME, (1_000_000, 1_000_000))
        if os.fork() == 0:
            os.setsid()
            open("escaped.new", "w").write(str(os.getpid()))
            os.rename("escaped.new", "escaped")
            time.sleep(1000)
        while not os.path.exists("escaped"):
            time.sleep(0.01)
    """)
    with world.daemon() as daemon:
        task_id = world.submit(*program, max_attempts=1)
        process = escaped(world)
        expect_settled(daemon, [task_id], outcome="succeeded")

        assert not is_alive(process)


def test_r14_a_run_that_is_not_proved_gone_shows_why_and_keeps_its_slot(world: World) -> None:
    """The lock on its output is held by somebody whom no listing shows as a writer."""
    with world.daemon() as daemon:
        task_id = world.submit("sleep", "1000")
        daemon.expect("run.started", task_id=task_id)
        (run,) = world.show(task_id)["runs"]
        output = world.state_dir / "output" / f"{run['uid']}.log"
        held = world.directory / "held"
        reader = subprocess.Popen([sys.executable, "-c", HOLDS_LOCK, str(output), str(held)])
        executor = daemon.executor()
        daemon.kill()
        executor.kill()
        psutil.Process(run["pid"]).kill()
        expect_file(world, "held")
    try:
        with world.daemon() as daemon:
            reason = daemon.expect("run.reconciled", state="unkillable")
            explained = world.cli("why", task_id).stdout
            degraded = world.cli("status", "--json").json["degraded"]
            reader.kill()
            expect_settled(daemon, [task_id])
            world.cli("cancel", task_id)
            expect_settled(daemon, [task_id], outcome="cancelled")
    finally:
        reader.kill()
        reader.wait()

    assert task_id == reason["task_id"]
    assert "its output file is locked" in explained
    assert [True] == ["its output file is locked" in text for text in degraded]


#: Waits for a lock on a file that it only reads.
HOLDS_LOCK = """
import fcntl, signal, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
open(sys.argv[2], "w").close()
signal.pause()
"""


def test_a_leader_below_the_marks_of_another_dispatcher_keeps_its_own(world: World) -> None:
    """A nested dispatcher marks its own runs; the outer one still finds them by lineage."""
    inner = Path(world.directory / "inner.toml")
    runtime_dir = world.runtime_dir / "inner"
    inner.write_text(
        f'[node]\nstate_dir = "{world.directory}/inner"\nruntime_dir = "{runtime_dir}"\n'
    )
    with world.daemon() as daemon:
        world.cli("submit", "--config", inner, "--", *shell(ESCAPES + "sleep 1000"))
        task_id = world.submit(sys.executable, "-m", "dispatcher", "run", "--config", str(inner))
        process = escaped(world)

        world.cli("cancel", task_id)
        expect_settled(daemon, [task_id], outcome="cancelled")

        expect_dead(process)
        assert {daemon.pid, daemon.executor().pid} == {p.pid for p in world.processes()}


#: Forks and exits, again and again: a listed process is gone before it is read.
HANDS_ON = """
import os, time
null = os.open(os.devnull, os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(null, descriptor)
for _ in range(4_000):
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.path.exists("enough"):
        break
    with open("beats", "ab") as beats:
        beats.write(b".")
    time.sleep(0.004)
"""


def test_r13_a_survivor_that_hands_itself_on_is_swept_before_the_next_run(world: World) -> None:
    """A list of processes that one of them outran proves nothing."""
    (world.directory / "hands_on.py").write_text(HANDS_ON)
    script = shell(f"""
        if [ $DISPATCHER_FENCE = 2 ]; then
            before=$(wc -c < beats); sleep 1; after=$(wc -c < beats)
            touch enough; [ $before = $after ] && echo gone || echo alive; exit
        fi
        (env -i {sys.executable} -I -S hands_on.py &)
        sleep 1000
    """)
    with world.daemon() as daemon:
        task_id = world.submit(*script)
        expect_file(world, "beats")
        executor = daemon.executor()
        daemon.kill()
        executor.kill()
    try:
        with world.daemon() as daemon:
            expect_settled(daemon, [task_id], outcome="succeeded")
    finally:
        (world.directory / "enough").touch()

    assert "gone\n" == world.show(task_id)["runs"][1]["output_tail"]
