"""Open runs for which no executor answers, in virtual time: nothing starts while one may live."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from dispatcher import wire
from dispatcher.execution import Claim, StartedRun
from dispatcher.executor_api import END_THEM
from dispatcher.model import Liveness, Outcome, TaskState
from tests.simulation import SETTINGS, World
from tests.unit.test_absence import PRECEDENCE, record

ALIVE = "a process on this host still has its output open"


@pytest.fixture
def world() -> World:
    return World()


def claimed_before(world: World, *, over: bool = False, **facts: Any) -> Claim:
    """Claim a task as the node did from which this database came; `over`: its takeover has come."""
    world.submit("work", **{"queue": "far", "kill_grace_ms": 0, **facts})
    with world.store.transaction() as now:
        (claim,) = world.store.claim(
            "far", limit=1, node="far", output_dir="/far", until=now if over else None, now=now
        )
    return claim


def stranded(world: World) -> list[tuple[object, ...]]:
    found = world.supervisor.report(at=world.at()).stranded
    return [(one.task_id, one.fence, one.why, one.is_ours) for one in found]


def outcomes(world: World, task_id: int) -> list[Outcome | None]:
    return [run.outcome for run in world.runs(task_id)]


def test_runs_of_another_node_in_an_embedded_store_are_orphaned_at_once_and_it_is_logged(
    world: World,
) -> None:
    claims = [claimed_before(world) for _ in range(250)]

    with capture_logs() as logs:
        world.start()

    assert {Outcome.ORPHANED} == {outcomes(world, claim.task_id)[0] for claim in claims}
    assert TaskState.RUNNING is world.state(claims[0].task_id)
    taken = [line for line in logs if line["event"] == "claim.taken_over"]
    assert (250, {"far"}) == (len(taken), {line["owner"] for line in taken})


def test_r79_as_long_as_something_of_it_lives_a_run_stays_with_a_visible_reason(
    world: World,
) -> None:
    claim = claimed_before(world)
    with world.store.transaction() as now:
        world.store.record_started([StartedRun(uid=claim.run_uid, pid=4711, at=now)], now=now)
    world.executor.alive[claim.run_uid] = ALIVE

    with capture_logs() as logs:
        world.start()
        world.run_for(100)

    assert [None] == outcomes(world, claim.task_id)
    assert [(claim.task_id, 1, ALIVE, False)] == stranded(world)
    warned = [line for line in logs if line["event"] == "run.stranded"]
    assert [("far", ALIVE, claim.task_id, 4711)] == [
        (line["owner"], line["reason"], line["task_id"], line["pid"]) for line in warned
    ]

    del world.executor.alive[claim.run_uid]
    world.run_for(SETTINGS.reap_interval)

    assert Outcome.ORPHANED is outcomes(world, claim.task_id)[0]
    assert (TaskState.RUNNING, 2) == (world.state(claim.task_id), world.task(claim.task_id).fence)
    assert [] == stranded(world)


def test_survivors_of_one_run_keep_no_other(world: World) -> None:
    living, over = claimed_before(world), claimed_before(world)
    world.executor.alive[living.run_uid] = ALIVE
    world.start()

    assert [None] == outcomes(world, living.task_id)
    assert Outcome.ORPHANED is outcomes(world, over.task_id)[0]


def test_very_many_survivors_keep_no_run_behind_them(world: World) -> None:
    living = [claimed_before(world) for _ in range(150)]
    over = [claimed_before(world) for _ in range(150)]
    world.executor.alive |= dict.fromkeys((one.run_uid for one in living), ALIVE)
    world.start()

    assert {Outcome.ORPHANED} == {outcomes(world, one.task_id)[0] for one in over}
    assert {one.task_id for one in living} == {task_id for task_id, *_ in stranded(world)}


def test_it_is_looked_at_only_at_each_scan(world: World) -> None:
    claim = claimed_before(world, over=True)
    world.executor.alive[claim.run_uid] = ALIVE
    world.start()
    looks = world.executor.looks

    world.run_for(10 * SETTINGS.reap_interval)

    assert 10 == world.executor.looks - looks


@PRECEDENCE
def test_it_is_settled_as_declared_then_as_its_ending_then_as_orphaned(
    world: World, *, declared: bool, ending: bool, outcome: Outcome
) -> None:
    claim = claimed_before(world)
    record(world, claim, declared=declared, ending=ending)

    world.start()

    assert outcome is outcomes(world, claim.task_id)[0]


def test_a_cancel_meanwhile_holds_when_it_is_gone(world: World) -> None:
    claim = claimed_before(world)
    world.executor.alive[claim.run_uid] = ALIVE
    world.start()

    world.cancel(claim.task_id)
    world.run_for(100)
    assert TaskState.RUNNING is world.state(claim.task_id)
    world.executor.alive.clear()
    world.run_for(SETTINGS.reap_interval)

    assert TaskState.CANCELLED is world.state(claim.task_id)


# This node's own, which its executor does not know --------------------------------------------


@pytest.mark.parametrize("liveness", list(Liveness))
def test_a_run_of_this_node_that_its_executor_lost_stays_as_long_as_it_lives(
    world: World, liveness: Liveness
) -> None:
    """A cloned state directory, an executor in another pid namespace, a lost journal."""
    task = world.submit("work", liveness=liveness, lease_ttl_ms=600_000)
    world.start()
    uid = world.uid(task)
    world.executor.alive[uid] = ALIVE
    world.executor.die()
    world.executor.greet()
    world.settle_down()

    world.run_for(100)
    assert (TaskState.RUNNING, [None]) == (world.state(task), outcomes(world, task))
    assert [(task, 1, ALIVE, True)] == stranded(world)
    assert {uid} == set(world.supervisor.open_runs or ())  # nobody removes its output
    world.executor.alive.clear()
    world.run_for(SETTINGS.reap_interval)

    assert [Outcome.ORPHANED, None] == outcomes(world, task)


def test_one_that_the_executor_ended_is_stranded_no_longer_from_its_settle_on(
    world: World,
) -> None:
    task = world.submit("work")
    world.start()
    uid = world.uid(task)
    world.executor.alive[uid] = f"its processes live on this host: sleep (4711){END_THEM}"
    world.executor.die()
    world.executor.greet()
    world.settle_down()
    assert [(task, 1, "its processes live on this host: sleep (4711)", True)] == stranded(world)
    assert uid in [one.uid for one in world.executor.sent if isinstance(one, wire.End)]

    world.executor.alive.clear()
    world.executor.events.append(wire.Exited(uid=uid, exit=wire.Exit(at=world.at())))
    world.settle_down()

    assert (TaskState.RUNNING, 2) == (world.state(task), world.task(task).fence)
    assert [] == stranded(world)


def test_one_that_the_executor_knows_again_goes_on(world: World) -> None:
    task = world.submit("work")
    world.start()
    known = dict(world.executor.runs)
    world.executor.alive[world.uid(task)] = ALIVE
    world.executor.die()
    world.executor.greet()
    world.settle_down()

    world.executor.runs = known
    world.executor.greet()
    world.executor.alive.clear()
    world.run_for(100)

    assert [] == stranded(world)
    world.gone(task, 0)
    assert [Outcome.SUCCEEDED] == outcomes(world, task)


def test_it_holds_no_slot_and_keeps_no_other_task_waiting(world: World) -> None:
    for claim in [claimed_before(world) for _ in range(SETTINGS.slots)]:
        world.executor.alive[claim.run_uid] = ALIVE
    task = world.submit("work")
    world.start()

    assert TaskState.RUNNING is world.state(task)
    assert [task] == [
        int(start.env["DISPATCHER_TASK_ID"])
        for start in world.executor.sent
        if isinstance(start, wire.Start)
    ]
