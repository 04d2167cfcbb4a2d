"""Somebody stands still while a deadline passes: what happened before it is what counts.

The worker exits by itself before the deadline, with a code of its own, and nobody reads it before
the deadline has passed.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import psutil
import pytest

from dispatcher import times
from tests.e2e.helpers import expect_dead, expect_file, shell, submit_all
from tests.e2e.world import Daemon, World
from tests.eventually import eventually
from tests.system.standstill import frozen, stopped

#: Seconds from a start to each deadline; of absence, with the two that the executor adds.
DEADLINE = 3.0

#: Seconds for which a deadline is past when they go on: the executor has its own, 2 s behind.
LATE = 3.0

#: Makes a file when it is there, exits when another file appears.
WAITS = "echo > there; until [ -e go ]; do sleep 0.02; done; echo > gone; exit 3"

STUB = f"{sys.executable} -m worker_stub"


@dataclass(frozen=True)
class Deadline:
    """What ends a run that is late."""

    settings: Mapping[str, object] = field(default_factory=dict)
    configured: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    script: str = WAITS
    outcome: str = "failed"
    drains: bool = False


DEADLINES = {
    "lease": Deadline(
        {"liveness": "worker", "lease_ttl": "3s"}, script=f"{STUB} heartbeat; {WAITS}"
    ),
    "start": Deadline({"liveness": "worker", "start_timeout": "3s"}),
    "run": Deadline({"run_timeout": "3s"}),
    "stall": Deadline({"stall_timeout": "3s"}),
    "absence": Deadline(configured={"executor": {"absence_limit": "1s"}}),
    "exit grace": Deadline(
        configured={"leases": {"exit_grace": "3s"}},
        script=f"{STUB} succeed; {WAITS}",
        outcome="succeeded",
    ),
    "drain": Deadline(configured={"daemon": {"drain_timeout": "3s"}}, drains=True),
}


@pytest.mark.parametrize(
    "who",
    [("daemon",), ("executor",), ("daemon", "executor"), ("executor", "daemon")],
    ids=" then ".join,
)
@pytest.mark.parametrize("name", DEADLINES)
def test_a_worker_that_ended_before_its_deadline_has_its_own_outcome_after_a_standstill(
    world: World, name: str, who: tuple[str, ...]
) -> None:
    deadline = DEADLINES[name]
    world.configure(**deadline.configured)
    with world.daemon() as daemon:
        task = {"command": shell(deadline.script), "max_attempts": 1, **deadline.settings}
        (task_id,) = submit_all(world, task)
        daemon.expect("run.started", task_id=task_id)
        expect_file(world, "there")
        if deadline.drains:
            daemon.terminate()
            daemon.expect("daemon.stopping")
        begins_at = times.instant()

        with stopped(processes_of(daemon, *who)):
            (world.directory / "go").touch()
            expect_file(world, "gone")
            if times.instant() > begins_at + DEADLINE:
                pytest.skip("the host is too slow: the worker did not end before its deadline")
            eventually(lambda: expect_past(begins_at + DEADLINE + LATE))

        settled = daemon.expect("run.settled", task_id=task_id)
        known = settled["outcome"], settled["exit_code"], settled["signal"]
        assert (deadline.outcome, 3, None) == known


@pytest.mark.parametrize("how", [stopped, frozen])
def test_a_lease_is_not_lost_while_everything_stands_still(
    world: World, how: Callable[[list[psutil.Process]], AbstractContextManager[None]]
) -> None:
    beating = f"exec {STUB} run -- sh -c '{WAITS}'"
    with world.daemon() as daemon:
        task = {
            "command": shell(beating),
            "liveness": "worker",
            "lease_ttl": "2s",
            "max_attempts": 1,
        }
        (task_id,) = submit_all(world, task)
        daemon.expect("run.started", task_id=task_id)
        expect_file(world, "there")
        begins_at = times.instant()

        with how(world.processes()):
            beats = len(daemon.events("lease.renewed"))
            eventually(lambda: expect_past(begins_at + 5))
        eventually(lambda: expect_more(daemon, beats))
        (world.directory / "go").touch()

        settled = daemon.expect("run.settled", task_id=task_id)
        assert ("failed", 3) == (settled["outcome"], settled["exit_code"])


def test_a_daemon_that_stood_still_while_its_executor_was_killed_runs_the_task_again(
    world: World,
) -> None:
    script = f"[ $DISPATCHER_FENCE = 1 ] || exit 0; echo $$ > leader; {WAITS}"
    with world.daemon() as daemon:
        (task_id,) = submit_all(world, {"command": shell(script)})
        leader = psutil.Process(int(expect_file(world, "leader", lines=1)[0]))
        with stopped(processes_of(daemon, "daemon")):
            executor = daemon.executor()
            executor.kill()
            expect_dead(executor)
        daemon.expect("run.settled", task_id=task_id, outcome="orphaned")
        expect_dead(leader)
        daemon.expect("run.settled", task_id=task_id, outcome="succeeded")

    assert not (world.directory / "gone").exists()


def test_an_executor_that_stood_still_while_its_daemon_was_killed_reports_the_real_code(
    world: World,
) -> None:
    with world.daemon() as daemon:
        (task_id,) = submit_all(world, {"command": shell(WAITS), "max_attempts": 1})
        daemon.expect("run.started", task_id=task_id)
        expect_file(world, "there")
        with stopped(processes_of(daemon, "executor")):
            daemon.kill()
            (world.directory / "go").touch()
            expect_file(world, "gone")
    with world.daemon() as daemon:
        settled = daemon.expect("run.settled", task_id=task_id)

        assert ("failed", 3) == (settled["outcome"], settled["exit_code"])


def processes_of(daemon: Daemon, *who: str) -> list[psutil.Process]:
    both = {"daemon": psutil.Process(daemon.pid), "executor": daemon.executor()}
    return [both[name] for name in who]


def expect_more(daemon: Daemon, beats: int) -> None:
    assert beats < len(daemon.events("lease.renewed"))


def expect_past(moment: float) -> None:
    assert times.instant() > moment
