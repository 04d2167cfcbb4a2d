"""A process that a user may not read is not gone.

An ordinary user's `ssh-agent` shows them little of itself; with `hidepid` nothing at all.
"""

import os
import sys

import psutil
import pytest

from tests.e2e.helpers import expect_file, expect_settled, is_alive, shell
from tests.e2e.users import AGENT, LOOKS_FOR_A_TWIN, needs_guarded_agent
from tests.e2e.world import World
from tests.eventually import eventually
from tests.system.places import sees_proc


@pytest.fixture(autouse=True)
def guarded_agent() -> None:
    needs_guarded_agent()


def agent_of(world: World) -> psutil.Process:
    return psutil.Process(int(expect_file(world, "agent", lines=1)[0]))


def agents(world: World) -> list[psutil.Process]:
    return [process for process in world.processes() if process.name() == "ssh-agent"]


def test_hidepid_2_a_leader_that_cannot_be_read_is_ended_before_its_run_is_settled(
    users_world: World,
) -> None:
    world = users_world
    sees_proc(world, "hidepid=2")
    with world.daemon() as daemon:
        task_id = world.submit("ssh-agent", "-D", "-a", "sock")
        leader = psutil.Process(daemon.expect("run.started", task_id=task_id)["pid"])
        eventually(lambda: expect_listening(world))

        world.cli("cancel", task_id)
        daemon.expect("run.settled", task_id=task_id, outcome="cancelled")

        assert not is_alive(leader), "settled while its leader lived"
        run = world.show(task_id)["runs"][0]
        assert (run["exit_code"], run["signal"]) != (None, None), "nobody saw its end"

        world.cli("retry", task_id)
        daemon.expect("run.started", task_id=task_id, fence=2)
        eventually(lambda: expect_listening(world))
        assert 1 == len(agents(world)), "a twin"
        world.cli("cancel", task_id)
        daemon.expect("run.settled", task_id=task_id, fence=2)
        assert [] == agents(world)


def expect_listening(world: World) -> None:
    assert os.path.exists(world.directory / "sock")
    assert agents(world)


def test_hidepid_1_a_process_that_cannot_be_read_holds_up_no_other_run(users_world: World) -> None:
    """Nothing shows its run: a stray, named, and ended with the last of its candidates."""
    world = users_world
    world.configure(node={"slots": 8})
    sees_proc(world, "hidepid=1")
    with world.daemon() as daemon:
        lasting = world.submit("sleep", "1000")
        task_id = world.submit(*shell(f"{AGENT}; sleep 3"))
        agent = agent_of(world)
        quiet = [world.submit("true") for _ in range(3)]

        expect_settled(daemon, [*quiet, task_id], outcome="succeeded")
        stray = daemon.expect("worker.stray", pid=agent.pid)
        more = world.submit("true")
        expect_settled(daemon, [more], outcome="succeeded")
        world.cli("cancel", lasting)
        expect_settled(daemon, [lasting])

        assert not is_alive(agent), "it outlived the last run that it may be of"
        assert {uid_of(world, task_id), uid_of(world, lasting)} <= set(stray["candidates"])
        assert [] == daemon.events("worker.unkillable")


def uid_of(world: World, task_id: int) -> str:
    return str(world.show(task_id)["runs"][-1]["uid"])


def test_an_agent_is_ended_with_its_run_though_another_may_be_its_own(users_world: World) -> None:
    world = users_world
    with world.daemon() as daemon:
        lasting = world.submit("sleep", "1000")
        daemon.expect("run.started", task_id=lasting)
        task_id = world.submit(
            *shell(f"{LOOKS_FOR_A_TWIN}{AGENT}; sleep 1.5; exit 1"), max_attempts=2
        )

        expect_settled(daemon, [task_id], outcome="succeeded")
        assert not (world.directory / "twin").exists(), "it lived during the retry"
        assert [] == agents(world)
        assert [] == daemon.events("worker.stray")
        world.cli("cancel", lasting)
        expect_settled(daemon, [lasting], outcome="cancelled")


#: Nobody may look into it, its outputs are closed, its session is its own, and it has two threads.
NOT_DUMPABLE = """
import ctypes, os, threading, time
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
null = os.open(os.devnull, os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(null, descriptor)
os.setsid()
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
open("there", "w").close()
for _ in range(6000):
    with open("beats", "ab") as beats:
        beats.write(b".")
    time.sleep(0.01)
"""


def leaves_hidden_survivor() -> list[str]:
    """Return a command that starts hidden.py; its second run reports whether that still lives."""
    return shell(f"""
        if [ $DISPATCHER_FENCE = 2 ]; then
            before=$(wc -c < beats); sleep 1; after=$(wc -c < beats)
            [ $before = $after ] && echo gone || echo alive; exit
        fi
        (env -i {sys.executable} -I -S hidden.py &)
        sleep 1000
    """)


@pytest.mark.parametrize("option", ["hidepid=1", "hidepid=2"])
def test_a_survivor_that_proc_hides_is_swept_before_its_task_runs_again(
    users_world: World, option: str
) -> None:
    """ProtectProc=invisible, as the units have it: its mark is still read by prlimit(2)."""
    world = users_world
    sees_proc(world, option)
    (world.directory / "hidden.py").write_text(NOT_DUMPABLE)
    with world.daemon() as daemon:
        task_id = world.submit(*leaves_hidden_survivor())
        expect_file(world, "there")
        executor = daemon.executor()
        daemon.kill()
        executor.kill()
    with world.daemon() as daemon:
        expect_settled(daemon, [task_id], outcome="succeeded")

    assert "gone\n" == world.show(task_id)["runs"][1]["output_tail"]
