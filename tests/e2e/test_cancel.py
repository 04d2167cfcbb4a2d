"""An operator cancels or holds what runs."""

import signal

import psutil

from tests.e2e.helpers import expect_file, expect_settled, is_alive, python, shell, submit_all
from tests.e2e.world import World

#: Neither it nor its child, which escaped from its session, takes the hint.
STUBBORN = python("""
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    with open("stubborn", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(1000)
""")


def test_r12_r13_r18_a_running_task_is_ended_with_its_whole_tree_after_the_grace(
    world: World,
) -> None:
    with world.daemon() as daemon:
        task_id = world.submit(*STUBBORN, max_attempts=1)
        tree = [psutil.Process(int(pid)) for pid in expect_file(world, "stubborn", lines=2)]

        assert (
            f"{task_id} is being ended; then it is cancelled\n"
            == world.cli("cancel", task_id).stdout
        )

        settled = daemon.expect("run.settled", task_id=task_id)
        for process in tree:
            assert not is_alive(process)
        ending = daemon.expect("run.ending", task_id=task_id, ending="cancelled")

    assert ending["sequence"] < settled["sequence"]
    task = world.show(task_id)
    (run,) = task["runs"]
    assert ("cancelled", 0) == (task["state"], task["attempts_used"])
    assert ("cancelled", signal.SIGKILL) == (run["outcome"], run["signal"])


def test_an_obedient_worker_ends_within_its_grace_and_is_not_killed(world: World) -> None:
    world.configure(leases={"kill_grace": "1h"})
    script = "trap 'echo bye; exit 0' TERM; echo >> ready; while :; do sleep 0.02; done"
    with world.daemon() as daemon:
        task_id = world.submit(*shell(script))
        expect_file(world, "ready")
        world.cli("cancel", task_id)
        expect_settled(daemon, [task_id])

    (run,) = world.show(task_id)["runs"]
    assert ("cancelled", 0, None) == (run["outcome"], run["exit_code"], run["signal"])
    assert "bye\n" in run["output_tail"]


def test_a_finished_task_stays_finished_and_the_exit_code_shows_it(world: World) -> None:
    succeeded, failed = submit_all(
        world, {"command": ["true"]}, {"command": ["false"], "max_attempts": 1}
    )
    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    printed = world.cli("cancel", succeeded, failed, 99, exits=1).stderr
    refused = world.cli("retry", succeeded, exits=1).stderr

    assert f"dispatcher: task {succeeded} has succeeded already; " in printed
    assert f"dispatcher: task {failed} has failed already; " in printed
    assert "dispatcher: no task 99; " in printed
    assert f"task {succeeded} has succeeded; to run it again, submit a new task" in refused
    assert ["succeeded", "failed"] == [world.show(i)["state"] for i in (succeeded, failed)]


def test_r18_a_held_task_has_no_process_left_and_runs_again_when_it_is_released(
    world: World,
) -> None:
    task_id = world.submit(*shell("echo $$ >pid; [ $DISPATCHER_FENCE = 2 ] || sleep 1000"))
    with world.daemon():
        pid = int(expect_file(world, "pid")[0])
        assert f"{task_id} is being ended; then it is held\n" == world.cli("hold", task_id).stdout
        held = world.until(task_id, "held")
        assert not psutil.pid_exists(pid)
        (run,) = held["runs"]
        assert ("held", 0, "held by an operator") == (
            run["outcome"],
            held["attempts_used"],
            held["reason"],
        )

        world.cli("release", task_id)
        assert 2 == len(world.until(task_id, "succeeded")["runs"])
