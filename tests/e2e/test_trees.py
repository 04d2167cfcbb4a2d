"""Whole process trees: whatever a worker does to be left alone, nothing of it is left."""

from __future__ import annotations

import signal
from datetime import datetime

import pytest

from tests.e2e.helpers import (
    expect_file,
    expect_settled,
    misbehaves,
    python,
    shell,
    submit_all,
)
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(90)

#: The tree of each of these ignores SIGTERM and hangs: what it does besides, and its processes.
EVASIONS = {
    "nothing": ((), 1),
    "forks": (("--fork", "2"), 3),
    "escapes": (("--escape",), 2),
    "escapes without an environment": (("--escape", "--clear-env"), 2),
    "escapes without an output": (("--escape", "--close-output"), 2),
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


def test_r12_r13_r17_nothing_of_a_silent_worker_lives_when_its_successor_starts(
    world: World,
) -> None:
    """AC-10."""
    world.configure(node={"slots": 8}, leases={"kill_grace": "300ms"})
    lease = {"liveness": "worker", "lease_ttl": "1s"}
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


def test_r20_two_hundred_stubborn_trees_end_at_once_and_hold_up_nobody(world: World) -> None:
    world.configure(node={"slots": 202}, leases={"kill_grace": "2s"})
    with world.daemon() as daemon:
        ids = submit_all(world, *[{"command": STUBBORN, "max_attempts": 1}] * 200)
        expect_file(world, "stubborn", lines=200, within=20)
        world.cli("cancel", *ids)
        daemon.expect("run.ending")
        other = world.submit("true")
        expect_settled(daemon, [*ids, other], within=20)

        last = max(e["sequence"] for e in daemon.events("run.settled") if e["task_id"] in ids)
        assert daemon.expect("run.started", task_id=other)["sequence"] < last
        assert {daemon.pid, daemon.executor().pid} == {p.pid for p in world.processes()}
