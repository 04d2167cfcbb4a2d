"""The order, number and repetition of runs: slots, queues, priorities, delays, keys."""

import os
import time

import pytest

from tests.e2e.helpers import expect_file, shell, states, submit_all
from tests.e2e.world import World
from tests.eventually import eventually

#: Counts the live workers, itself included.
COUNT = shell("""
    : > "alive.$$"
    set -- alive.*
    echo $# >> seen
    sleep 0.03
    rm "alive.$$"
""")


def test_r45_without_configured_slots_there_are_as_many_as_cpus(world: World) -> None:
    _without_slots(world)
    submit_all(world, *[{"command": COUNT}] * 60)

    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    cpus = len(os.sched_getaffinity(0))
    assert cpus == daemon.expect("daemon.started")["slots"]
    seen = [int(count) for count in expect_file(world, "seen", lines=60)]
    assert (60, True) == (len(seen), max(seen) <= cpus)


def _without_slots(world: World) -> None:
    lines = world.config_file.read_text().splitlines(keepends=True)
    world.config_file.write_text("".join(x for x in lines if not x.startswith("slots")))


@pytest.mark.parametrize("how", ["run", "run --drain", "run, killed, run again"])
def test_r46_the_slots_hold_however_the_daemon_is_run(world: World, how: str) -> None:
    world.configure(node={"slots": 3})
    submit_all(world, *[{"command": COUNT}] * 40)

    if "killed" in how:
        with world.daemon() as daemon:
            expect_file(world, "seen", lines=10)
            daemon.kill()
    with world.daemon(*how.split()[1:2] if "--" in how else ()) as daemon:
        if "--" in how:
            assert 0 == daemon.wait()
        eventually(lambda: _assert_over(world), every=0.2)

    seen = [int(count) for count in expect_file(world, "seen")]
    assert (40, 3) == (len(seen), max(seen))


def _assert_over(world: World) -> None:
    assert {"succeeded"} == set(states(world))


def test_queues_share_the_slots_by_weight_and_ageing_orders_one_by_waiting(world: World) -> None:
    note = shell('echo "$DISPATCHER_QUEUE-$1" >> order')
    ageing = {"ageing": "1s"}
    world.configure(
        **{"node": {"slots": 1}, "queues.big": {"weight": 3}, "queues.small": ageing},
    )

    def tasks(queue: str, *numbers: int, priority: int = 0) -> None:
        wanted = {"queue": queue, "priority": priority}
        submit_all(world, *({"command": [*note, "x", str(n)], **wanted} for n in numbers))

    tasks("small", 1, 2)
    world.cli("pause", "small", "--reason", "so that its tasks grow older")
    begin = time.monotonic()
    eventually(lambda: _assert_after(begin + 2.5))
    tasks("small", 3, priority=1)
    tasks("small", 4, priority=60)
    tasks("big", 1, 2, 3, 4, 5, 6, 7)
    world.cli("resume", "small")
    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    order = expect_file(world, "order", lines=11)
    assert ["small-4", "small-1", "small-2", "small-3"] == [x for x in order if "small" in x]
    assert "bbbsbbbsbss" == "".join(x[0] for x in order)


def _assert_after(moment: float) -> None:
    assert time.monotonic() > moment
