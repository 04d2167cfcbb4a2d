"""An operator cancels, and changes their mind."""

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


def test_waiting_tasks_are_cancelled_at_once_with_and_without_a_daemon(world: World) -> None:
    ready, scheduled = submit_all(
        world, {"command": ["true"]}, {"command": ["true"], "delay": "1h"}
    )

    printed = world.cli("cancel", ready, scheduled).stdout
    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    assert f"{ready} cancelled\n{scheduled} cancelled\n" == printed
    for task_id in (ready, scheduled):
        task = world.show(task_id)
        assert ("cancelled", []) == (task["state"], task["runs"])


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


def test_a_cancelled_task_that_is_retried_runs_as_if_new(world: World) -> None:
    with world.daemon() as daemon:
        task_id = world.submit(*shell("while [ ! -e go ]; do sleep 0.02; done"), max_attempts=1)
        daemon.expect("run.started", task_id=task_id)
        world.cli("cancel", task_id)
        expect_settled(daemon, [task_id])
        (world.directory / "go").touch()

        assert f"{task_id} ready\n" == world.cli("retry", task_id).stdout

        daemon.expect("run.settled", task_id=task_id, outcome="succeeded", attempt=1, fence=2)


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
