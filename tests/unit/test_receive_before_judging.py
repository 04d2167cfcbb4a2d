"""Waiting requests are read before a run's time is judged, in virtual time (protocol 1.13)."""

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from dispatcher import wire
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.supervisor.stop import Stop
from dispatcher.times import Instant
from dispatcher.words import Renewed
from tests.simulation import World
from tests.unit.test_leases import WORKER, Line, ends, ends_after_quiet

PLAIN = {"lease_ttl_ms": 40_000_000}
BEATING = {"liveness": Liveness.WORKER, **PLAIN}


def nothing(_: World, __: Line) -> None: ...


def declare(_: World, worker: Line) -> None:
    worker.declare(Declared.SUCCEED)


def drain(world: World, _: Line) -> None:
    world.supervisor.stop(Stop.DRAIN, at=world.at())


def stop_at_once(world: World, worker: Line) -> None:
    drain(world, worker)
    drain(world, worker)


#: The settings of a task, the events of its run, and its ending when its time is over.
TIMES = [
    pytest.param(WORKER, nothing, "lost", id="lease"),
    pytest.param({**PLAIN, "run_timeout_ms": 5_000}, nothing, "timed_out", id="run_timeout"),
    pytest.param({**PLAIN, "total_timeout_ms": 5_000}, nothing, "timed_out", id="total_timeout"),
    pytest.param({**PLAIN, "stall_timeout_ms": 5_000}, nothing, "stalled", id="stall_timeout"),
    pytest.param({**BEATING, "start_timeout_ms": 5_000}, nothing, "lost", id="start_timeout"),
    pytest.param(BEATING, declare, "succeeded", id="exit_grace"),
    pytest.param(PLAIN, drain, "released", id="drain"),
    pytest.param(PLAIN, stop_at_once, "released", id="at once"),
]

#: Longer than each of these times, and than the patience of a drain beyond it.
LONG = 120


def at_work(world: World, facts: dict[str, Any], happens: Callable[[World, Line], None]) -> Line:
    task = world.submit("work", **facts)
    world.start()
    world.executor.mute = True
    worker = Line(world, task)
    happens(world, worker)
    return worker


@pytest.mark.parametrize(("facts", "happens", "ended"), TIMES)
def test_no_run_is_ended_for_its_time_before_the_executor_spoke_since(
    facts: dict[str, Any], happens: Callable[[World, Line], None], ended: str
) -> None:
    world = World()
    at_work(world, facts, happens)
    world.executor.answered = Instant(world.at() - 1)

    world.run_for(LONG)
    assert [] == ends(world)
    world.executor.mute = False
    world.run_for(1)

    assert [ended] == ends(world)


@pytest.mark.parametrize(("facts", "happens", "ended"), TIMES)
def test_a_run_that_had_exited_when_its_executor_answered_has_its_code(
    facts: dict[str, Any], happens: Callable[[World, Line], None], ended: str
) -> None:
    world = World()
    worker = at_work(world, facts, happens)

    world.run_for(LONG)
    world.executor.mute = False
    world.gone(worker.task_id, 0)

    assert [] == ends(world)
    assert [Outcome.SUCCEEDED] == [run.outcome for run in world.runs(worker.task_id)]


@pytest.mark.parametrize(("facts", "happens", "ended"), TIMES)
def test_no_run_is_ended_for_its_time_while_requests_are_unread(
    facts: dict[str, Any], happens: Callable[[World, Line], None], ended: str
) -> None:
    world = World()
    at_work(world, facts, happens)
    world.executor.mute = False

    world.caught_up = False
    world.run_for(LONG)
    assert [] == ends(world)
    world.caught_up = True
    world.run_for(1)

    assert [ended] == ends(world)


def test_each_lease_waits_for_an_answer_since_its_own_expiry() -> None:
    world = World()
    first = at_work(world, WORKER, nothing).task_id
    world.run_for(2)
    second = world.submit("work", **WORKER)
    world.settle_down()
    world.run_for(29)
    assert [] == ends(world)

    world.executor.answered = world.at()  # after the first expired, and before the second
    world.run_for(5)
    assert [world.uid(first)] == [m.uid for m in world.executor.sent if isinstance(m, wire.End)]
    world.executor.answered = world.at()
    world.run_for(1)

    assert ["lost", "lost"] == ends(world)
    assert world.uid(second) in world.executor.runs


def test_a_drain_that_stood_still_waits_for_an_answer_before_it_gives_up() -> None:
    world = World()
    task = world.submit("sleep", **PLAIN)
    world.start()
    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    world.settle_down()
    world.executor.mute = True
    world.elapsed += 1000

    assert not world.supervisor.is_over(at=world.at())
    world.gone(task, None, signal=9)

    assert world.supervisor.is_over(at=world.at())
    assert world.supervisor.leaves_nothing_behind


def test_a_drain_gives_up_on_an_executor_that_does_not_answer() -> None:
    world = World()
    world.submit("sleep", **PLAIN)
    world.start()
    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    world.executor.answering = False

    world.run_for(1000)

    assert world.supervisor.is_over(at=world.at())


def deaf_for(world: World, seconds: float) -> None:
    """Replace the daemon, and let its successor wait so long for the executor's greeting."""
    world.executor.events.clear()
    world.fresh_supervisor()
    world.settle_down()
    world.run_for(seconds)
    world.executor.greet()
    world.settle_down()


def test_a_worker_that_could_not_be_read_before_the_greeting_is_renewed_once_and_not_lost() -> None:
    world = World()
    worker = at_work(world, WORKER, nothing)
    world.executor.mute = False

    with capture_logs() as logs:
        deaf_for(world, 70)
    assert ("daemon.was_away", 1) == [
        (line["event"], line["leases"]) for line in logs if "leases" in line
    ][-1]
    world.run_for(29.9)
    assert [] == ends(world)
    assert isinstance(worker.beat(), Renewed)
    assert ["lost"] == ends_after_quiet(world, 29.9, 0.2)


def test_the_lease_is_renewed_only_when_every_waiting_connection_was_read() -> None:
    world = World()
    worker = at_work(world, WORKER, nothing)
    world.executor.mute = False

    world.caught_up = False
    deaf_for(world, 70)
    world.run_for(40)  # so long does the crowd take
    world.caught_up = True
    world.run_for(29.9)

    assert [] == ends(world)
    assert TaskState.RUNNING is world.state(worker.task_id)


def test_a_short_deafness_prolongs_nothing() -> None:
    world = World()
    at_work(world, WORKER, nothing)
    world.executor.mute = False
    world.run_for(20)

    deaf_for(world, 9)
    assert [] == ends(world)
    world.run_for(1)

    assert ["lost"] == ends(world)


def test_a_claim_made_by_hand_is_not_lost_while_requests_are_unread() -> None:
    world = World()
    world.submit("by hand", queue="hand")
    with world.store.transaction() as now:
        assert world.store.claim_local("hand", owner="local:x", output_dir="/o", now=now)
    world.start()

    world.caught_up = False
    world.run_for(200)
    assert world.runs(1)[0].outcome is None
    world.caught_up = True
    world.run_for(10)

    assert Outcome.LOST is world.runs(1)[0].outcome
