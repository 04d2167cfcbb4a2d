"""A run that forks as fast as the host can, and what its neighbours wait for."""

import json
from datetime import datetime
from statistics import median
from typing import Any

from tests.e2e.helpers import expect_file, expect_settled, shell, submit_all
from tests.e2e.world import Daemon, World

#: Nine of ten processes are orphans, which die at once and are the executor's to reap. It pauses
#: while two thousand are not reaped: the host's pids are everybody's.
STORM = shell("""
    count() { read -r _ _ _ total _ < /proc/loadavg; total=${total#*/}; }
    count
    most=$((total + 2000))
    echo > storm
    for loop in 1 2; do
        while :; do
            (: & : & : & : & : & : & : & : & : &)
            count
            [ $total -lt $most ] || sleep 0.01
        done &
    done
    wait
""")


def neighbours_of_a_storm(world: World, daemon: Daemon, count: int) -> list[float]:
    """Run so many quiet tasks during a storm; return the seconds from start to settled, sorted."""
    storm = world.submit(*STORM)
    expect_file(world, "storm")
    quiet = submit_all(world, *[{"command": ["true"]}] * count)
    expect_settled(daemon, quiet, outcome="succeeded")
    assert "running" == world.show(storm)["state"]

    world.cli("cancel", storm)
    expect_settled(daemon, [storm], outcome="cancelled")
    assert [] == daemon.events("worker.unkillable"), "a false alarm"
    assert [] == escalated(world, quiet), "ended, though nothing was left"
    return sorted(_seconds(daemon, task_id) for task_id in quiet)


def escalated(world: World, tasks: list[int]) -> list[dict[str, Any]]:
    """Return when the executor went on to end runs of these tasks and saw nobody to end."""
    uids = {run["uid"] for task_id in tasks for run in world.show(task_id)["runs"]}
    lines = (world.state_dir / "executor.log").read_text("utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    return [e for e in events if e["event"] == "run.escalated" and e["uid"] in uids]


def in_words(waited: list[float]) -> str:
    """Print how long neighbours waited."""
    return f"{len(waited)} neighbours: median {median(waited):.3f} s, longest {waited[-1]:.3f} s"


def _seconds(daemon: Daemon, task_id: int) -> float:
    return _moment(daemon, "run.settled", task_id) - _moment(daemon, "task.claimed", task_id)


def _moment(daemon: Daemon, event: str, task_id: int) -> float:
    found = daemon.expect(event, task_id=task_id)
    return datetime.fromisoformat(found["timestamp"]).timestamp()
