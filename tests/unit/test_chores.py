"""Work that may wait keeps nothing else from the store, which may not take it. In virtual time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher.errors import (
    CommitUnknown,
    DispatcherError,
    StoreRefused,
    StoreUnavailable,
    StoreWithheld,
)
from dispatcher.model import Liveness, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.submits import CONTINUE_AFTER
from dispatcher.supervisor.admission import LOOK_INTERVAL
from dispatcher.supervisor.chores import RETRY
from dispatcher.supervisor.turn import Request
from dispatcher.words import Beat, Renewed
from tests.recorded_logs import expect_catalogued
from tests.simulation import SETTINGS, World
from tests.unit.test_bulk_submit import TASK, left_behind, tables

#: Seconds within which a daemon has looked for what a silent client left, and tried once.
LOOKED = CONTINUE_AFTER / 1000 + 2 * LOOK_INTERVAL


@contextmanager
def full(world: World) -> Iterator[None]:
    """Let the database take no page more."""
    store: Any = world.store
    connection = store.engine.connection
    ((most,),) = connection.execute("PRAGMA max_page_count").fetchall()
    connection.execute("VACUUM")  # no free page is left
    connection.execute("PRAGMA max_page_count = 1")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA max_page_count = {most}")


def beats(world: World, seconds: int) -> list[bool]:
    """Let a worker beat each second; return which beats renewed its lease."""
    answers: list[bool] = []
    with world.store.snapshot():
        ((task_id, lock),) = world.store.engine.rows(  # type: ignore[attr-defined]
            "SELECT task_id, lock FROM runs WHERE outcome IS NULL"
        )

    def collect(answer: object, _: object) -> None:
        answers.append(isinstance(answer, Renewed))

    for _ in range(seconds):
        world.run_for(1)
        world.tick(Request(Beat(task_id=task_id, lock=lock), collect))
    return answers


def test_r69_a_full_disk_under_an_accepted_bulk_submit_costs_no_beat() -> None:
    world = World(replace(SETTINGS, slots=1))
    working = world.submit(liveness=Liveness.WORKER, lease_ttl_ms=3_000)
    world.start()
    with world.store.transaction() as now:
        long = NewTask(
            command=("true",), max_attempts=1, lease_ttl_ms=1_000, payload=f'"{"x" * 40_000}"'
        )
        assert world.store.stage("bulk", 0, [long] * 9, now=now)
        assert world.store.accept("bulk", now=now)

    with full(world), capture_logs() as logs:
        answers = beats(world, 90)
    events = [one for one in logs if one["event"].startswith(("work.", "store."))]
    world.run_for(RETRY[1])

    assert [True] * 90 == answers
    assert TaskState.RUNNING == world.state(working)
    assert ["work.postponed"] == [one["event"] for one in events]
    assert "bulk submits" == events[0]["work"]
    assert (10, 1) == tables(world)
    expect_catalogued(logs)


@pytest.mark.parametrize("work", ["continue_silent", "prune"])
@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("disk full"),
        StoreWithheld("denied"),
        CommitUnknown("no answer"),
        StoreRefused("CHECK"),
    ],
)
def test_work_that_the_store_refuses_is_tried_less_and_less_and_is_reported(
    work: str, error: DispatcherError
) -> None:
    world = World(replace(SETTINGS, retention=10.0))
    left_behind(world, accepted=True)
    world.elapsed = 7200.0  # retention waits in the first hour
    world.start()
    store: Any = world.store
    sound, tries = getattr(store, work), []

    def refuse(**_: object) -> None:
        tries.append(world.elapsed)
        raise error

    setattr(store, work, refuse)
    with capture_logs() as logs:
        world.run_for(LOOKED)
        begun = len(tries)
        world.run_for(600)
        often = len(tries)
        postponed = world.supervisor.report(at=world.at()).postponed
        setattr(store, work, sound)
        world.run_for(RETRY[1])

    name = {"continue_silent": "bulk submits", "prune": "retention"}[work]
    assert 1 <= begun
    assert 6 <= often <= 25
    assert {name: str(error)} == postponed
    assert {} == world.supervisor.report(at=world.at()).postponed
    events = [(one["event"], one["work"]) for one in logs if one["event"].startswith("work.")]
    assert [("work.postponed", name), ("work.resumed", name)] == events
    assert not [one for one in logs if one["event"].startswith("store.")]
    expect_catalogued(logs)


def test_a_damaged_part_ends_no_daemon_and_the_rest_goes_on() -> None:
    world = World()
    left_behind(world, accepted=True)
    store: Any = world.store
    with store.transaction() as now:
        store.engine.change("UPDATE bulk_parts SET tasks = '[{\"command\":5}]' WHERE part = 0")
        store.stage("other", 0, [TASK], now=now)
        store.accept("other", now=now)
    world.start()

    world.run_for(LOOKED)

    assert 3 == tables(world)[0]
    with store.snapshot():
        assert 2 == store.coming()
        (events,) = store.damaged_parts()
    assert events.startswith("part 0 of bulk submit bulk is damaged by hand: item 1: command: ")


def test_a_drain_waits_for_no_damaged_part() -> None:
    world = World(replace(SETTINGS, until_idle=True))
    left_behind(world, accepted=True)
    store: Any = world.store
    with store.transaction():
        store.engine.change("UPDATE bulk_parts SET tasks = '[' WHERE part = 1")
    world.start()
    assert not world.supervisor.is_over(at=world.at())

    world.run_for(LOOKED)
    for task_id in (1, 2):
        world.gone(task_id)

    assert world.supervisor.is_over(at=world.at())
