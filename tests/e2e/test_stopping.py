"""SIGTERM to daemon and executor: what waits, what is ended, what lives on."""

import signal

import psutil

from tests.e2e.helpers import (
    expect_file,
    expect_settled,
    external_executor,
    is_alive,
    listed,
    shell,
    submit_all,
)
from tests.e2e.world import World
from tests.eventually import PATIENCE

#: It ends itself on SIGTERM, or when it may.
WILLING = "while [ ! -e go ]; do sleep 0.02; done"

#: It takes no hint, nor does its child.
STUBBORN = """
    trap '' TERM
    echo >> stubborn
    while :; do sleep 1000; done
"""


def test_r34_r66_sigterm_drains_waits_for_workers_and_releases_the_rest_uncharged(
    world: World,
) -> None:
    with world.daemon() as daemon:
        quick, slow, queued = submit_all(
            world,
            {"command": shell(WILLING), "max_attempts": 1},
            {"command": shell(STUBBORN), "max_attempts": 1},
            {"command": ["true"], "max_attempts": 1, "delay": "1h"},
        )
        daemon.expect("run.started", task_id=quick)
        expect_file(world, "stubborn")
        daemon.terminate()
        event = daemon.expect("daemon.stopping", how="drain", runs=2)
        assert (2.0, "waits up to 2 s for its runs; a second signal ends them now") == (
            event["timeout_s"],
            event["message"],
        )
        late = world.submit("true")
        (world.directory / "go").touch()
        assert 0 == daemon.wait()
        world.expect_nobody()

    assert daemon.expect("run.settled", task_id=quick)["outcome"] == "succeeded"
    found = {i: (t["state"], t["attempts_used"], t["fence"]) for i, t in listed(world).items()}
    assert {
        quick: ("succeeded", 0, 1),
        slow: ("ready", 0, 1),
        queued: ("scheduled", 0, 0),
        late: ("ready", 0, 0),
    } == found
    task = world.show(slow)
    assert ("released: the daemon stops", "released") == (
        task["reason"],
        task["runs"][0]["outcome"],
    )


def test_r34_a_released_task_is_the_first_of_its_priority_to_run_again(world: World) -> None:
    world.configure(node={"slots": 1}, daemon={"drain_timeout": "0s"})
    first, second = submit_all(
        world, *[{"command": shell("echo $DISPATCHER_TASK_ID >> order; " + WILLING)}] * 2
    )
    with world.daemon():
        expect_file(world, "order", lines=1)
    (world.directory / "go").touch()
    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    assert [str(first), str(first), str(second)] == expect_file(world, "order")


def test_r66_a_second_sigterm_ends_runs_at_once(world: World) -> None:
    world.configure(daemon={"drain_timeout": "1h"}, leases={"kill_grace": "1h"})
    with world.daemon() as daemon:
        task_id = world.submit(*shell(STUBBORN), max_attempts=1)
        expect_file(world, "stubborn")
        daemon.signal(signal.SIGINT)
        daemon.expect("daemon.stopping", how="drain")
        daemon.terminate()
        assert 0 == daemon.wait()

    task = world.show(task_id)
    (run,) = task["runs"]
    assert ("ready", 0, "released", signal.SIGKILL) == (
        task["state"],
        task["attempts_used"],
        run["outcome"],
        run["signal"],
    )


def test_r61_r66_daemons_come_and_go_over_an_external_executor_and_no_worker_notices(
    world: World,
) -> None:
    world.configure(executor={"mode": "external"}, node={"slots": 2})
    with external_executor(world) as executor:
        work = {"command": shell("sleep 0.15; echo done"), "max_attempts": 1}
        long = world.submit(*shell(WILLING), max_attempts=1)
        ids = submit_all(world, *[work] * 8)
        for seen in ("run.started", "run.reconciled", "run.reconciled"):
            with world.daemon(alone=False) as daemon:
                worker = psutil.Process(daemon.expect(seen, task_id=long)["pid"])
                daemon.expect("run.settled")
                daemon.terminate()
                assert 0 == daemon.wait()
            assert (True, None) == (is_alive(worker), executor.poll())
        (world.directory / "go").touch()
        with world.daemon("--drain", alone=False) as daemon:
            assert 0 == daemon.wait()

    found = {i: (task["state"], task["fence"]) for i, task in listed(world).items()}
    assert dict.fromkeys([long, *ids], ("succeeded", 1)) == found


def test_without_an_external_executor_the_daemon_waits_and_reports_it(world: World) -> None:
    world.configure(executor={"mode": "external"})
    with world.daemon() as daemon:
        world.submit("true")
        assert "waiting" == world.cli("status", "--json").json["executor"]
        assert "executor  waiting" in world.cli("status").stdout
        assert "no executor listens" in daemon.expect("daemon.waiting")["reason"]
        assert [] == daemon.events("task.claimed")
        with external_executor(world, alone=False):
            expect_settled(daemon, [1])


def test_r34_sigterm_to_the_executor_ends_its_runs_as_released(world: World) -> None:
    world.configure(executor={"mode": "external"})
    with world.daemon() as daemon:
        with external_executor(world, alone=False) as executor:
            ids = submit_all(
                world,
                {"command": ["sleep", "1000"], "max_attempts": 1},
                {"command": shell(STUBBORN), "max_attempts": 1},
            )
            expect_file(world, "stubborn")
            daemon.expect("run.started", task_id=ids[0])
            executor.terminate()
            assert 0 == executor.wait(PATIENCE)
        for task_id in ids:
            daemon.expect("run.settled", task_id=task_id, outcome="released")
        daemon.expect("executor.lost")

    for task_id in ids:
        task = world.show(task_id)
        # While it waits for the stubborn one, it starts nothing new, and reports it.
        assert (True, 0) == (task["state"] in ("ready", "scheduled"), task["attempts_used"])
        assert {"released"} == {run["outcome"] for run in task["runs"]}


def test_r62_with_on_stop_leave_a_daemon_leaves_its_embedded_executor_to_the_next_one(
    world: World,
) -> None:
    world.configure(daemon={"on_stop": "leave"})
    with world.daemon(alone=False) as daemon:
        executor = daemon.executor()
        task_id = world.submit(*shell(WILLING))
        worker = psutil.Process(daemon.expect("run.started", task_id=task_id)["pid"])
    assert (True, True) == (is_alive(executor), is_alive(worker))

    (world.directory / "go").touch()
    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    assert (False, False) == (is_alive(executor), is_alive(worker))
