"""Another node has taken a claim: this one records nothing of it, ends it, reports it, goes on."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher import policy, wire
from dispatcher.model import Outcome, TaskState
from dispatcher.supervisor.turn import Request
from dispatcher.words import Beat
from tests.recorded_logs import expect_catalogued
from tests.simulation import SETTINGS, World

LIMIT = 100.0


@pytest.fixture
def world() -> World:
    """A world with one slot, whose store other nodes share."""
    world = World(settings=replace(SETTINGS, slots=1, absence_limit=LIMIT))
    store: Any = world.store
    store.engine.dialect = replace(store.engine.dialect, shared=True)
    return world


def take(world: World, task_id: int) -> wire.RunUid:
    """Take a task's claim over, and claim it again, as another node does; return the lost run."""
    uid = world.uid(task_id)
    with world.store.transaction() as now:
        run = world.store.open_run(uid)
        assert run is not None
        settled = policy.settle(run, None, now=now, ended_at=now, rng=random.Random(1))
        assert 1 == world.store.settle([settled], now=now)
        (claim,) = world.store.claim("default", limit=1, node="far", output_dir="/o", now=now)
    assert claim.task_id == task_id
    return uid


def everything(world: World) -> list[Any]:
    store: Any = world.store
    with store.snapshot():
        return [store.engine.rows(f"SELECT * FROM {table}") for table in ("tasks", "runs")]


def sent(world: World, kind: type[Any], uid: wire.RunUid) -> list[Any]:
    return [one for one in world.executor.sent if isinstance(one, kind) and one.uid == uid]


def lost(captured: list[Any]) -> list[int]:
    expect_catalogued(captured)
    return [line["task_id"] for line in captured if line["event"] == "claim.lost"]


def test_the_end_of_a_lost_run_is_forgotten_and_nothing_recorded(world: World) -> None:
    task_id = world.submit("work")
    world.start()
    uid = take(world, task_id)
    before = everything(world)

    with capture_logs() as captured:
        world.executor.gone(uid, 0, at=world.at())
        world.tick()

    assert before == everything(world)
    assert [task_id] == lost(captured)
    assert 1 == len(sent(world, wire.Forget, uid))
    assert [] == sent(world, wire.End, uid)
    second = world.submit("next")
    world.run_for(2)
    assert TaskState.RUNNING is world.state(second)


def test_a_claim_that_cannot_be_confirmed_is_ended_at_once_and_nothing_starts_until_it_is_gone(
    world: World,
) -> None:
    task_id = world.submit("work")
    world.start()
    uid = take(world, task_id)
    second = world.submit("next")
    before = everything(world)

    with capture_logs() as captured:
        world.run_for(LIMIT / 4 + 1)

    assert [task_id] == lost(captured)
    (end,) = sent(world, wire.End, uid)
    assert end.at_once
    assert before == everything(world)[:1] + before[1:]
    renewed = [one for one in world.executor.sent if isinstance(one, wire.Renew)]
    assert all(uid not in one.deadlines for one in renewed)
    assert TaskState.READY is world.state(second)

    world.executor.gone(uid, None, at=world.at())
    world.settle_down()

    assert TaskState.RUNNING is world.state(second)
    assert 1 == len(sent(world, wire.Forget, uid))


def started_again(world: World, uid: wire.RunUid) -> None:
    world.executor.events.append(wire.Started(uid=uid, pid=9, start_ticks=1, at=world.at()))
    world.executor.events.append(
        wire.Changed(uid=uid, state=wire.RunState.ENDING, ended_by=wire.EndedBy.RUN_TIMEOUT)
    )


def noticed(world: World, uid: wire.RunUid) -> None:
    world.executor.events.append(wire.Notice(uid=uid, serial=1, beat=True))
    world.executor.events.append(
        wire.Changed(uid=uid, state=wire.RunState.LEADER_EXITED, exit=wire.Exit(at=0.0))
    )


@pytest.mark.parametrize("report", [started_again, noticed])
def test_a_report_of_a_lost_run_is_not_recorded_and_shows_that_it_is_lost(
    world: World, report: Callable[[World, wire.RunUid], None]
) -> None:
    task_id = world.submit("work")
    world.start()
    other = world.submit("beating", queue="other")
    uid = take(world, task_id)
    before = everything(world)
    report(world, uid)

    with capture_logs() as captured:
        world.tick(Request(Beat(task_id=other, lock="none"), lambda *_: None))

    assert before == everything(world)
    assert [task_id] == lost(captured)
    assert 1 == len(sent(world, wire.End, uid))


def test_a_lost_run_that_a_new_connection_reports_alive_is_ended(world: World) -> None:
    task_id = world.submit("work")
    world.start()
    uid = take(world, task_id)

    with capture_logs() as captured:
        world.executor.reconnect()
        world.settle_down()

    assert [task_id] == lost(captured)
    assert 1 == len(sent(world, wire.End, uid))
    assert [Outcome.ORPHANED, None] == [run.outcome for run in world.runs(task_id)]


def test_a_failed_start_of_a_lost_run_frees_its_slot(world: World) -> None:
    task_id = world.submit("work")
    world.start()
    uid = take(world, task_id)
    failed = wire.StartFailed(uid=uid, fault=wire.Fault.HOST, error="no memory")
    world.executor.runs.clear()
    world.executor.events.append(failed)
    second = world.submit("next")

    with capture_logs() as captured:
        world.run_for(2)

    assert [task_id] == lost(captured)
    assert TaskState.RUNNING is world.state(second)


def test_a_run_claimed_in_the_tick_that_confirms_is_kept(world: World) -> None:
    world.start()
    world.run_for(LIMIT / 4 - 1)
    world.elapsed += 2
    task_id = world.submit("work")

    with capture_logs() as captured:
        world.settle_down()
        world.run_for(LIMIT)

    assert [] == lost(captured)
    assert TaskState.RUNNING is world.state(task_id)
