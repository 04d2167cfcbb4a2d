"""Time-outs, kill signals and graces on real processes, through the installed command."""

import signal
import sys
from datetime import datetime
from typing import Any

import psutil

from tests.e2e.helpers import (
    expect_dead,
    expect_file,
    expect_settled,
    external_executor,
    python,
    shell,
    submit_all,
)
from tests.e2e.world import World

WRAP = [sys.executable, "-m", "worker_stub", "run", "--"]
WORKER = {"liveness": "worker", "lease_ttl": "1s"}
FOREVER = ["sleep", "1000"]

#: It writes the signal that it got to a file and its output, and exits.
POLITE = """
    trap 'echo TERM >> signals; exit 0' TERM
    trap 'echo USR1 >> signals; exit 0' USR1
    echo >> ready
    while :; do sleep 0.02; done
"""

#: Its main thread ends on SIGTERM; a non-daemon thread keeps the process alive.
BLOCKED = python("""
    import signal, sys, threading, time
    threading.Thread(target=time.sleep, args=(1000,)).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    open("blocked", "w").close()
    time.sleep(1000)
""")


def seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def only_run(task: dict[str, Any]) -> dict[str, Any]:
    (run,) = task["runs"]
    found: dict[str, Any] = run
    return found


def test_r06_r22_r36_each_time_out_of_a_run_ends_it_with_its_own_outcome(world: World) -> None:
    world.configure(node={"slots": 8})
    once = {"max_attempts": 1}
    with world.daemon() as daemon:
        long, silent, beating, talking, liar = submit_all(
            world,
            {"command": FOREVER, "run_timeout": "700ms", **once},
            {
                "command": FOREVER,
                "liveness": "worker",
                "lease_ttl": "1h",
                "start_timeout": "600ms",
                **once,
            },
            {"command": [*WRAP, *FOREVER], **WORKER, "stall_timeout": "1.5s", **once},
            {
                "command": shell("for n in 1 2 3 4 5 6 7; do echo; sleep 0.3; done"),
                "stall_timeout": "1.5s",
                **once,
            },
            {"command": shell("echo timed out: stalled, lost; exit 1"), **once},
        )
        expect_settled(daemon, [long, silent, beating, talking, liar])

    ends = {}
    for task_id in (long, silent, beating, talking, liar):
        task = world.show(task_id)
        ends[task_id] = task["state"], only_run(task)["outcome"], task["attempts_used"]
    assert {
        long: ("failed", "timed_out", 1),
        silent: ("failed", "lost", 1),
        beating: ("failed", "stalled", 1),
        talking: ("succeeded", "succeeded", 0),
        liar: ("failed", "failed", 1),
    } == ends
    run = only_run(world.show(long))
    assert "run_timeout: not done within 700ms" in run["error"]
    assert seconds(run["started_at"], run["ended_at"]) > 0.69
    run = only_run(world.show(beating))
    assert seconds(run["started_at"], run["last_heartbeat_at"]) > 0.5
    assert seconds(run["started_at"], run["ended_at"]) > 1.49


def test_the_executor_keeps_the_run_timeout_of_a_dead_daemon(world: World) -> None:
    with world.daemon() as daemon:
        task_id = world.submit(*FOREVER, run_timeout="500ms", max_attempts=1)
        worker = psutil.Process(daemon.expect("run.started", task_id=task_id)["pid"])
        daemon.kill()
    expect_dead(worker)

    with world.daemon() as daemon:
        expect_settled(daemon, [task_id])

    task = world.show(task_id)
    run = only_run(task)
    assert ("failed", "timed_out", signal.SIGTERM) == (
        task["state"],
        run["outcome"],
        run["signal"],
    )
    assert "ended by the executor: run_timeout" == run["error"]
    assert seconds(run["started_at"], run["ended_at"]) > 2.4


def test_r17_a_worker_gets_its_own_kill_signal_and_its_own_kill_grace(
    world: World,
) -> None:
    """For an expiry and a cancel alike."""
    world.configure(leases={"kill_grace": "1h"})
    hour = {"kill_signal": "USR1", "max_attempts": 1}
    with world.daemon() as daemon:
        timed, cancelled = submit_all(
            world,
            {"command": shell(POLITE), "run_timeout": "700ms", **hour},
            {"command": shell(POLITE), **hour},
        )
        blocked, impatient = submit_all(
            world,
            {"command": BLOCKED, "kill_grace": "700ms"},
            {"command": shell("trap '' TERM; echo >> ready; sleep 1000"), "kill_grace": "0s"},
        )
        expect_file(world, "ready", lines=3)
        expect_file(world, "blocked")
        world.cli("cancel", cancelled, blocked, impatient)
        expect_settled(daemon, [timed, cancelled, blocked, impatient])
        waited = seconds(
            daemon.expect("run.ending", task_id=blocked)["timestamp"],
            daemon.expect("run.settled", task_id=blocked)["timestamp"],
        )

    assert ["USR1", "USR1"] == expect_file(world, "signals", lines=2)
    assert ["timed_out", "cancelled"] == [
        only_run(world.show(task_id))["outcome"] for task_id in (timed, cancelled)
    ]
    assert signal.SIGKILL == only_run(world.show(blocked))["signal"]
    assert waited > 0.65  # its own grace; the hour of the others would not have been over


def test_a_drain_sends_the_tasks_own_kill_signal(world: World) -> None:
    world.configure(leases={"kill_grace": "1h"}, daemon={"drain_timeout": "0s"})
    with world.daemon():
        task_id = world.submit(*shell(POLITE), kill_signal="USR1")
        expect_file(world, "ready")

    assert ["USR1"] == expect_file(world, "signals")
    assert "released" == only_run(world.show(task_id))["outcome"]


def test_an_executor_that_is_stopped_sends_the_tasks_own_kill_signal(world: World) -> None:
    world.configure(leases={"kill_grace": "1h"}, executor={"mode": "external"})
    with world.daemon(alone=False) as daemon:
        with external_executor(world, alone=False):
            task_id = world.submit(*shell(POLITE), kill_signal="USR1")
            expect_file(world, "ready")
        expect_settled(daemon, [task_id])

    assert ["USR1"] == expect_file(world, "signals")
    assert "released" == only_run(world.show(task_id))["outcome"]


def test_r67_output_is_progress_whatever_became_of_its_name_and_size(world: World) -> None:
    """`rm output/*.log`, logrotate's `create`, and `> /dev/stderr` with lines of one length."""
    ticks = "for i in 1 2 3 4 5 6 7 8; do sleep 1; {}; done"
    here = 'f=$(readlink "/proc/$$/fd/2")'
    commands = {
        "removed": f'{here}; rm "$f"; {ticks.format("echo tick")}',
        "replaced": f'{here}; mv "$f" "$f.1"; : > "$f"; {ticks.format("echo tick")}',
        "written anew": ticks.format("echo tick > /dev/stderr"),
    }
    with world.daemon() as daemon:
        ids = [
            world.submit(*shell(command), stall_timeout="6s", max_attempts=1)
            for command in commands.values()
        ]
        expect_settled(daemon, ids, outcome="succeeded")
