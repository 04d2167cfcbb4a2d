"""The order, number and repetition of runs: slots, queues, priorities, delays, keys."""

import os

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
