"""The order, number and repetition of runs: slots, queues, priorities, delays, keys."""

import os
import subprocess
from datetime import datetime
from itertools import groupby
from typing import Any

import pytest

from tests.e2e.helpers import expect_file, listed, shell, states, submit_all
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually

#: Counts the live workers, itself included.
COUNT = shell("""
    : > "alive.$$"
    set -- alive.*
    echo $# >> seen
    sleep 0.03
    rm "alive.$$"
""")

ORDER = shell("echo $DISPATCHER_TASK_ID >> order")


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


def test_r47_queues_take_turns_and_within_one_the_highest_priority_goes_first(world: World) -> None:
    world.configure(node={"slots": 1})
    many = [{"command": ORDER, "queue": "many", "priority": p} for p in (0, 0, 5, -5, 0, 5)]
    few = [{"command": ORDER, "queue": "few", "priority": p} for p in (-9, 1)]
    one = [{"command": ORDER, "queue": "one"}]
    m1, m2, m3, m4, m5, m6, f1, f2, o1 = submit_all(world, *many, *few, *one)

    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    order = [int(line) for line in expect_file(world, "order")]
    queue = {task["id"]: task["queue"] for task in listed(world).values()}
    assert [m3, m6, m1, m2, m5, m4] == [i for i in order if queue[i] == "many"]
    assert [f2, f1] == [i for i in order if queue[i] == "few"]
    assert [o1] == [i for i in order if queue[i] == "one"]
    # Until the others have nothing left, nobody comes twice before everybody came once.
    runs = [(name, len(list(group))) for name, group in groupby(queue[i] for i in order)]
    assert {"many", "few", "one"} == {name for name, _ in runs[:3]}
    assert [1, 1, 1, 1] == [length for _, length in runs[:4]], runs


def test_a_delayed_task_starts_when_it_is_due_and_not_before(world: World) -> None:
    with world.daemon() as daemon:
        daemon.expect("executor.connected")
        task_id = world.submit("true", delay="500ms")
        daemon.expect("run.settled", task_id=task_id)

    task = world.show(task_id)
    (run,) = task["runs"]
    created, due, claimed = map(_moment, (task["created_at"], task["run_at"], run["claimed_at"]))
    assert 0.5 == round(due - created, 3)
    assert due <= claimed


def _moment(text: Any) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_r55_fifty_submitters_with_one_key_get_one_task(world: World) -> None:
    command = [DISPATCHER, "submit", "--key", "nightly", "--", "true"]
    submits = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=world.env, cwd=world.directory)
        for _ in range(50)
    ]

    printed = [submit.communicate(timeout=PATIENCE)[0] for submit in submits]

    assert {b"1\n"} == set(printed)
    assert {0} == {submit.returncode for submit in submits}
    assert [1] == list(listed(world))
