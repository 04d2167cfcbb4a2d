"""Schedules by the installed command: an outage, a killed daemon, two daemons on one server."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.client import Client
from dispatcher.config.config import load
from dispatcher.schedules import ScheduleState
from dispatcher.times import WallTime, wall_clock
from tests.e2e.world import World
from tests.eventually import eventually
from tests.postgres import Postgres

HOUR = 3_600_000

#: At five past each hour, so that none comes while a test is on, but for one in 700.
SYNC = {"cron": "5 * * * *", "command": ["sh", "-c", "echo for $SCHEDULED_AT"], "queue": "q"}


def schedule(world: World, **more: object) -> None:
    world.configure(**{"schedules.sync": {**SYNC, **more}})


def settle(world: World, *, hours_ago: int) -> None:
    """Let the store look as after so many hours without a daemon."""
    with Client(load(str(world.config_file))) as client, client.store.transaction() as now:
        definition = f"{SYNC['cron']} UTC"
        at = WallTime(wall_clock() - hours_ago * HOUR)
        client.store.take_schedules({"sync": definition}, at=at)
        state = ScheduleState(name="sync", definition=definition, settled_at=at)
        client.store.settle_schedule(state, now=now)


def tasks(world: World) -> list[int]:
    return [task["id"] for task in world.cli("list", "--json").json]


def test_r92_an_outage_is_made_up_for_once_though_the_daemon_is_killed(world: World) -> None:
    schedule(world)
    with world.daemon():
        assert ["sync"] == [one["schedule"] for one in world.cli("schedules", "--json").json]
    settle(world, hours_ago=5)

    with world.daemon(alone=False) as daemon:
        fired = daemon.expect("schedule.fired", schedule="sync")
        daemon.kill()
    with world.daemon():
        done = world.until(fired["task_id"], "succeeded")
        (sync,) = world.cli("schedules", "--json").json

    assert [fired["task_id"]] == tasks(world)
    assert "schedule:sync" == done["origin"]
    moment = fired["time"].replace(".000Z", "Z")
    assert f"for {moment}\n" == world.cli("logs", fired["task_id"]).stdout
    assert (fired["time"], fired["task_id"], "succeeded", "succeeded") == (
        sync["last_at"],
        sync["task_id"],
        sync["state"],
        sync["outcome"],
    )
    assert sync["next_at"] > sync["last_at"]


def test_a_reload_brings_a_schedule_and_a_mistake_leaves_the_old_one(world: World) -> None:
    with world.daemon():
        schedule(world)
        changed = world.cli("reload").stdout
        assert "schedules.sync.cron: (none) -> 5 * * * *" in changed
        eventually(lambda: expect_known(world))
        schedule(world, cron="30 2 31 2 *")
        refused = world.cli("reload", exits=78).stderr

    assert "schedules.sync.cron: '30 2 31 2 *' is no cron line" in refused


def expect_known(world: World) -> None:
    assert [("sync",)] == world.stored("SELECT name FROM schedules")


def test_a_daemon_does_not_start_with_a_schedule_that_nobody_could_submit(world: World) -> None:
    world.configure(
        **{
            "profiles.report": {"command": ["report", "{month}"]},
            "schedules.monthly": {"cron": "0 3 1 * *", "profile": "report"},
        }
    )

    refused = world.cli("run", exits=78).stderr

    assert "schedules.monthly.payload: is missing; give a JSON object with month" in refused


@pytest.fixture
def store(postgres: Postgres) -> Iterator[dict[str, str]]:
    yield {"url": postgres.url(), "schema": "schedules"}
    postgres.sql("DROP SCHEMA IF EXISTS schedules CASCADE")


def test_r92_two_daemons_on_one_server_submit_each_time_once(
    store: dict[str, str], world: World, tmp_path: Path, bytecode: Path
) -> None:
    (directory := tmp_path / "there").mkdir()
    every = {**SYNC, "catch_up": "all", "overlap": "queue"}
    with closing(World(directory, bytecode)) as other:
        for one in (world, other):
            one.configure(store=store, **{"schedules.sync": every})
        with world.daemon(alone=False):
            eventually(lambda: expect_listed(world))
        settle(world, hours_ago=20)
        with world.daemon(alone=False) as here, other.daemon(alone=False) as there:
            eventually(lambda: expect_all(world, 20))
            fired = [*here.events("schedule.fired"), *there.events("schedule.fired")]

    times = [one["time"] for one in fired]
    assert len(times) == len(set(times)) == 20


def expect_listed(world: World) -> None:
    (sync,) = world.cli("schedules", "--json").json
    assert sync["note"] is None
    with Client(load(str(world.config_file))) as client, client.store.snapshot():
        assert client.store.schedules()


def expect_all(world: World, many: int) -> None:
    shown = world.cli("list", "--json").json
    assert many == len(shown)
    assert {"succeeded"} == {task["state"] for task in shown}
