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


def give_back(world: World, task_id: int) -> wire.RunUid:
    """Settle a task's claim as another node does; return the lost run. The task is ready again."""
    uid = world.uid(task_id)
    with world.store.transaction() as now:
        run = world.store.open_run(uid)
        assert run is not None
        settled = policy.settle(run, None, now=now, ended_at=now, rng=random.Random(1))
        assert 1 == world.store.settle([settled], now=now)
    return uid


@pytest.mark.parametrize("reports", [False, True])
def test_the_tick_that_finds_a_claim_lost_starts_nothing_beside_it(
    world: World, *, reports: bool
) -> None:
    """By a confirmation, or by a report."""
    world.fresh_supervisor(slots=2)
    task_id = world.submit("work")
    world.start()
    if reports:
        changed(state=wire.RunState.ENDING, ended_by=wire.EndedBy.RUN_TIMEOUT)(
            world, world.uid(task_id)
        )
    else:
        world.run_for(LIMIT / 4 - 1)
        world.elapsed += 2
    uid = give_back(world, task_id)

    world.settle_down()
    world.run_for(2)

    assert {uid} == world.executor.runs.keys()
    assert TaskState.READY is world.state(task_id)
    world.executor.gone(uid, None, at=world.at())
    world.settle_down()
    assert TaskState.RUNNING is world.state(task_id)


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


def changed(**facts: Any) -> Callable[[World, wire.RunUid], None]:
    """Return what reports a change alone."""

    def report(world: World, uid: wire.RunUid) -> None:
        world.executor.events.append(wire.Changed(uid=uid, **facts))

    return report


def started(world: World, uid: wire.RunUid) -> None:
    world.executor.events.append(wire.Started(uid=uid, pid=9, start_ticks=1, at=world.at()))


def beaten(world: World, uid: wire.RunUid) -> None:
    world.executor.events.append(wire.Notice(uid=uid, serial=1, beat=True))


#: Reports that come alone, and so lock no row before they are recorded.
ALONE = {
    "started": started,
    "notice": beaten,
    "leader exited": changed(state=wire.RunState.LEADER_EXITED, exit=wire.Exit(at=0.0)),
    "ending": changed(state=wire.RunState.ENDING, ended_by=wire.EndedBy.RUN_TIMEOUT),
    "unkillable": changed(state=wire.RunState.UNKILLABLE, reason="it waits for a disk"),
    "unsignalled": changed(state=wire.RunState.ENDING, reason="sudo"),
}


@pytest.mark.parametrize("report", ALONE.values(), ids=ALONE)
def test_a_report_that_comes_alone_shows_that_its_run_is_lost(
    world: World, report: Callable[[World, wire.RunUid], None]
) -> None:
    task_id = world.submit("work")
    world.start()
    uid = take(world, task_id)
    before = everything(world)
    report(world, uid)

    with capture_logs() as captured:
        world.tick()

    assert before == everything(world)
    assert [task_id] == lost(captured)
    (end,) = sent(world, wire.End, uid)
    assert end.at_once


@pytest.mark.parametrize("report", ALONE.values(), ids=ALONE)
def test_a_report_of_a_run_that_ended_in_the_same_tick_loses_nothing(
    world: World, report: Callable[[World, wire.RunUid], None]
) -> None:
    task_id = world.submit("work")
    world.start()
    uid = world.uid(task_id)
    report(world, uid)
    world.executor.gone(uid, 0, at=world.at())

    with capture_logs() as captured:
        world.settle_down()

    assert [] == lost(captured)
    assert [] == sent(world, wire.End, uid)
    assert TaskState.RUNNING is not world.state(task_id)


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
    (end,) = sent(world, wire.End, uid)
    assert end.at_once
    assert [Outcome.ORPHANED, None] == [run.outcome for run in world.runs(task_id)]


def test_a_lost_run_that_a_restarted_daemon_finds_is_ended_at_once(world: World) -> None:
    task_id = world.submit("work")
    world.start()
    uid = take(world, task_id)

    with capture_logs() as captured:
        world.restart()

    (end,) = sent(world, wire.End, uid)
    assert end.at_once
    assert ["run.unknown"] == [one["event"] for one in captured if one.get("run") == uid]


def test_a_run_that_the_store_has_never_had_gets_its_kill_grace(world: World) -> None:
    world.start()
    uid = wire.RunUid("a" * 32)
    report = wire.RunReport(uid=uid, state=wire.RunState.RUNNING, pid=9, start_ticks=1)
    world.executor.runs[uid] = report

    world.executor.reconnect()
    world.settle_down()

    (end,) = sent(world, wire.End, uid)
    assert (False, SETTINGS.kill_grace) == (end.at_once, end.longest_grace)


def claim_unnoticed(world: World, task_id: int) -> wire.RunUid:
    """Claim a task as a commit of this daemon does that it has given up."""
    with world.store.transaction() as now:
        (claim,) = world.store.claim(
            "default", limit=1, node=world.settings.node_id, output_dir="/o", now=now
        )
    assert claim.task_id == task_id
    return claim.run_uid


def test_a_claim_that_the_daemon_does_not_know_is_found_when_claims_are_confirmed(
    world: World,
) -> None:
    world.submit("work", queue="other")
    world.start()
    task_id = world.submit("late")
    claim_unnoticed(world, task_id)

    world.run_for(LIMIT / 4 - 1)
    assert [None] == [run.outcome for run in world.runs(task_id)]
    with capture_logs() as captured:
        world.run_for(2)

    assert [Outcome.ORPHANED] == [run.outcome for run in world.runs(task_id)]
    assert TaskState.READY is world.state(task_id)
    assert ["store.reconciling"] == [
        line["event"] for line in captured if line["event"].startswith("store.")
    ]


def test_a_task_that_waits_as_such_a_claim_is_found_starts_once(world: World) -> None:
    """It is not claimed by that tick, whose messages would go to a connection that is dropped."""
    world.fresh_supervisor(slots=2)
    world.start()
    late = world.submit("late")
    claim_unnoticed(world, late)
    world.run_for(LIMIT / 4 - 1)
    world.elapsed += 2
    task_id = world.submit("next")

    world.settle_down()
    world.run_for(2)

    assert [None] == [run.outcome for run in world.runs(task_id)]
    assert [Outcome.ORPHANED, None] == [run.outcome for run in world.runs(late)]


def test_a_claim_is_also_searched_for_by_a_daemon_without_runs(world: World) -> None:
    world.start()
    task_id = world.submit("late")
    claim_unnoticed(world, task_id)

    world.run_for(LIMIT / 4 + 1)

    assert Outcome.ORPHANED is world.runs(task_id)[0].outcome


def test_a_claim_without_a_task_is_searched_for_once(world: World) -> None:
    """Its row was deleted by hand, so that no comparison finds the run."""
    world.start()
    task_id = world.submit("late")
    claim_unnoticed(world, task_id)
    store: Any = world.store
    store.engine.connection.execute("PRAGMA foreign_keys = OFF")
    store.engine.connection.execute(f"DELETE FROM tasks WHERE id = {task_id}")

    world.run_for(2 * LIMIT)

    assert 2 == world.executor.greetings


def test_a_run_that_is_stranded_here_is_not_searched_for(world: World) -> None:
    task_id = world.submit("work")
    world.start()
    uid = world.uid(task_id)
    world.executor.alive[uid] = "sleep (9)"
    world.executor.die()
    world.executor.greet()
    world.run_for(2 * LIMIT)

    assert 2 == world.executor.greetings
    assert [None] == [run.outcome for run in world.runs(task_id)]


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


@pytest.mark.parametrize("together", [False, True])
def test_a_lost_run_that_is_unkillable_keeps_no_other_from_starting(
    world: World, *, together: bool
) -> None:
    """Its executor reports that once."""
    task_id = world.submit("work")
    world.start()
    stuck = wire.Changed(uid=world.uid(task_id), state=wire.RunState.UNKILLABLE, reason="disk")
    if together:
        take(world, task_id)
    world.executor.events.append(stuck)
    world.settle_down()
    if not together:
        take(world, task_id)
        world.run_for(LIMIT / 2)
    second = world.submit("next")

    world.run_for(2)

    assert TaskState.RUNNING is world.state(second)
