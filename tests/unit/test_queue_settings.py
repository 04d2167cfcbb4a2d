"""`[queues.NAME]`: how many run at once, and what their tasks get."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.config.config import Config, load
from dispatcher.config.environment_file import Variables
from dispatcher.daemon.settings import settings as supervisor_settings
from dispatcher.model import Liveness, TaskState
from dispatcher.submission import new_task
from tests.simulation import NODE, SETTINGS, World

FILE = """
[defaults]
priority = 1
[queues.builds]
priority = 5
max_attempts = 7
ageing = "10m"
weight = 3
lease_ttl = "2m"
run_timeout = "1h"
kill_grace = "3s"
kill_signal = "INT"
[queues.agents]
liveness = "worker"
notify = true
start_timeout = "10s"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "dispatcher.toml"
    file.write_text(FILE)
    return load(str(file), {"HOME": "/home/somebody"})


def world(slots: int, **concurrency: int) -> World:
    return World(settings=replace(SETTINGS, slots=slots, concurrency=concurrency)).start()


def running(world: World, *tasks: int) -> list[int]:
    return [task for task in tasks if world.state(task) is TaskState.RUNNING]


def test_r44_no_more_of_a_queue_run_than_its_limit_and_the_next_follows_an_end() -> None:
    one = world(4, builds=2)
    builds = [one.submit(queue="builds") for _ in range(4)]
    one.run_for(2)

    assert builds[:2] == running(one, *builds)
    one.gone(builds[0])
    assert builds[1:3] == running(one, *builds)


def test_r44_a_full_queue_hides_no_other_one() -> None:
    one = world(3, a=1, b=1)
    tasks = {name: [one.submit(queue=name) for _ in range(3)] for name in "abc"}
    one.run_for(2)
    assert [1, 1, 1] == [len(running(one, *tasks[name])) for name in "abc"]

    one.gone(running(one, *tasks["c"])[0])
    assert [1, 1, 1] == [len(running(one, *tasks[name])) for name in "abc"]


def test_a_queue_for_claims_by_hand_runs_nothing_and_no_drain_waits_for_it() -> None:
    settings = replace(SETTINGS, slots=2, concurrency={"a": 0}, until_idle=True)
    one = World(settings=settings).start()
    by_hand = [one.submit(queue="a") for _ in range(3)]
    other = one.submit(queue="b")
    one.run_for(2)

    assert [other] == running(one, *by_hand, other)
    assert not one.supervisor.is_over(at=one.at())
    one.gone(other)
    one.run_for(2)
    assert one.supervisor.is_over(at=one.at())
    assert [TaskState.READY] * 3 == [one.state(task) for task in by_hand]


def test_slots_that_a_limit_leaves_go_to_the_other_queues() -> None:
    one = world(6, a=1)
    tasks = {name: [one.submit(queue=name) for _ in range(6)] for name in "ab"}
    one.run_for(2)

    assert [1, 5] == [len(running(one, *tasks[name])) for name in "ab"]


def test_a_limit_holds_after_a_restart() -> None:
    one = world(4, builds=1)
    builds = [one.submit(queue="builds") for _ in range(3)]
    one.run_for(2)
    one.restart()
    one.run_for(2)

    assert builds[:1] == running(one, *builds)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"queue": "other"},
            {"priority": 1, "ageing_ms": None, "max_attempts": 3, "lease_ttl_ms": 60_000},
        ),
        (
            {"queue": "builds"},
            {
                "priority": 5,
                "max_attempts": 7,
                "ageing_ms": 600_000,
                "lease_ttl_ms": 120_000,
                "run_timeout_ms": 3_600_000,
                "kill_grace_ms": 3_000,
                "kill_signal": 2,
            },
        ),
        ({"queue": "builds", "priority": 0, "kill_signal": 1}, {"priority": 0, "kill_signal": 1}),
        (
            {"queue": "agents"},
            {
                "liveness": Liveness.WORKER,
                "notify": True,
                "lease_ttl_ms": 900_000,
                "start_timeout_ms": 10_000,
                "priority": 1,
            },
        ),
        (
            {"queue": "agents", "liveness": Liveness.PROCESS, "notify": False},
            {
                "liveness": Liveness.PROCESS,
                "notify": False,
                "lease_ttl_ms": 60_000,
                "start_timeout_ms": None,
            },
        ),
    ],
)
def test_the_queue_and_then_the_defaults_fill_what_a_submit_leaves_out(
    config: Config, options: Any, expected: dict[str, object]
) -> None:
    task = new_task(config, ["true"], options)

    assert expected == {name: getattr(task, name) for name in expected}


def test_the_daemon_knows_the_weights_of_queues_that_have_another_than_1(config: Config) -> None:
    found = supervisor_settings(config, NODE, Variables({}, {}, []), until_idle=False)

    assert {"builds": 3} == found.weights
