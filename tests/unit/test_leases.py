"""Leases in virtual time: who renews, who is lost, and who is spared."""

from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher import wire, worker_api
from dispatcher.errors import StoreRefused, StoreUnavailable
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.turn import Request
from dispatcher.words import Accepted, Beat, Declaration, Refused, Renewed
from tests.simulation import SETTINGS, World
from tests.unit.test_supervisor import Unwell

WORKER = {"liveness": Liveness.WORKER, "lease_ttl_ms": 30_000}


class Line:
    """A worker at its socket: sends requests, remembers the answers."""

    def __init__(self, world: World, task_id: int) -> None:
        self.world = world
        self.task_id = task_id
        self.lock = world.executor.starts[-1].env["DISPATCHER_CLAIM_LOCK"]
        self.answers: list[Any] = []

    def send(self, words: Beat | Declaration) -> Any:
        request = Request(words, lambda answer, _: self.answers.append(answer))
        self.world.tick(request)
        self.world.settle_down()
        return self.answers[-1]

    def beat(self, **facts: Any) -> Any:
        return self.send(Beat(task_id=self.task_id, lock=self.lock, **facts))

    def declare(self, word: Declared, **facts: Any) -> Any:
        return self.send(Declaration(task_id=self.task_id, lock=self.lock, word=word, **facts))


@pytest.fixture
def world() -> World:
    return World()


def started(world: World, **facts: Any) -> Line:
    task = world.submit("work", **{**WORKER, **facts})
    world.start()
    return Line(world, task)


def ends(world: World) -> list[str]:
    return [m.reason for m in world.executor.sent if isinstance(m, wire.End)]


def ends_after_quiet(world: World, quiet: float, then: float) -> list[str]:
    """Return what has ended after `quiet` seconds in which nothing did, and `then` more seconds."""
    world.run_for(quiet)
    assert [] == ends(world)
    world.run_for(then)
    return ends(world)


def test_a_silent_worker_is_ended_and_its_task_runs_again_with_the_next_fence(
    world: World,
) -> None:
    task = started(world).task_id

    assert ["lost"] == ends_after_quiet(world, 29.9, 0.1)
    world.gone(task, None, signal=15)
    world.run_for(10)

    row = world.task(task)
    assert (TaskState.RUNNING, 2, 1) == (row.state, row.fence, row.attempts_used)
    assert Outcome.LOST is world.runs(task)[0].outcome


def test_a_worker_that_starts_beside_one_with_a_long_lease_is_lost_at_its_own_instant() -> None:
    world = World(settings=replace(SETTINGS, poll=3_600.0))
    started(world, lease_ttl_ms=40_000_000)
    world.run_for(100)
    world.submit("work", **WORKER)
    world.settle_down()

    assert ["lost"] == ends_after_quiet(world, 29.9, 0.1)


def test_ac9_a_diligent_worker_lives_ten_leases(world: World) -> None:
    worker = started(world)

    for _ in range(30):
        world.run_for(10)
        assert isinstance(worker.beat(), Renewed)

    assert [] == ends(world)
    assert 1 == len(world.runs(worker.task_id))


def test_a_process_needs_no_beats(world: World) -> None:
    task = world.submit("work", lease_ttl_ms=30_000)
    world.start()

    world.run_for(3600)

    assert [] == ends(world)
    expiry = world.runs(task)[0].lease_expires_at
    assert expiry is not None
    assert world.now() + 20_000 <= expiry <= world.now() + 30_000


def test_a_process_of_a_silent_executor_keeps_its_lease(world: World) -> None:
    task = world.submit("work", lease_ttl_ms=3_000)
    world.start()

    world.executor.answering = False
    world.run_for(60)

    expiry = world.runs(task)[0].lease_expires_at
    assert expiry is not None
    assert expiry > world.now()


def test_nobody_is_lost_while_nothing_could_be_ended(world: World) -> None:
    worker = started(world)

    world.executor.answering = False
    world.run_for(120)
    assert [] == ends(world)
    assert TaskState.RUNNING is world.state(worker.task_id)
    assert isinstance(worker.beat(), Renewed)
    world.executor.answering = True
    world.run_for(1)

    assert [] == ends(world)


def test_nobody_is_lost_before_the_executor_has_answered_again(world: World) -> None:
    worker = started(world)

    world.executor.mute = True
    world.run_for(40)
    assert [] == ends(world)
    world.executor.mute = False
    world.run_for(1)

    assert ["lost"] == ends(world)
    assert worker.answers == []


def test_a_run_whose_exit_could_not_be_reported_yet_is_not_lost(world: World) -> None:
    task = started(world).task_id

    world.executor.mute = True
    world.run_for(40)
    world.executor.mute = False
    world.gone(task, 0)

    assert [] == ends(world)
    assert TaskState.SUCCEEDED is world.state(task)


def test_ac8_a_beat_in_the_tick_of_its_expiry_wins(world: World) -> None:
    worker = started(world)
    world.run_for(29.9)
    world.elapsed += 0.1

    assert isinstance(worker.beat(), Renewed)

    assert [] == ends(world)


def test_a_beat_during_an_ending_gets_not_owner(world: World) -> None:
    worker = started(world)
    world.run_for(30)

    answer = worker.beat()

    assert Refused(worker_api.WorkerError.NOT_OWNER, TaskState.RUNNING, 1) == answer


def test_ac5_a_worker_from_before_is_superseded(world: World) -> None:
    old = started(world)
    world.run_for(30)
    world.gone(old.task_id, None, signal=9)
    world.run_for(10)
    before = world.runs(old.task_id)[1]

    answer = old.beat()

    assert worker_api.WorkerError.SUPERSEDED is answer.error
    assert before == world.runs(old.task_id)[1]


def test_without_the_store_a_worker_has_to_retry(world: World) -> None:
    worker = started(world)
    transaction = world.store.transaction

    def unavailable() -> Any:
        raise StoreUnavailable("locked")

    world.store.transaction = unavailable  # type: ignore[method-assign]
    assert worker.beat() is None
    world.store.transaction = transaction  # type: ignore[method-assign]
    world.run_for(1)

    assert isinstance(worker.beat(), Renewed)


def test_r10_a_worker_that_was_turned_away_is_not_lost_for_it(world: World) -> None:
    """It sent its heartbeat in time; that the store was busy just then is not its fault."""
    worker = started(world)
    transaction = world.store.transaction

    def turned_away() -> None:
        def unavailable() -> Any:
            raise StoreUnavailable("locked")

        world.store.transaction = unavailable  # type: ignore[method-assign]
        assert worker.beat() is None
        world.store.transaction = transaction  # type: ignore[method-assign]

    world.run_for(29)
    turned_away()
    world.run_for(10)
    assert [] == ends(world)
    assert isinstance(worker.beat(), Renewed)

    world.run_for(29)
    turned_away()
    world.run_for(14.9)
    assert [] == ends(world)
    world.run_for(1.2)  # now it is silent
    assert ["lost"] == ends(world)


# Absence and clocks ------------------------------------------------------------------------


def test_r65_an_absence_is_reported_at_most_the_nodes_interval_too_long(
    world: World,
) -> None:
    world.run_for(12)  # idle, it writes that it is there each minute
    started(world)
    world.run_for(14)

    world.elapsed += 100
    world.fresh_supervisor()
    with capture_logs() as logs:
        world.settle_down()
        world.executor.greet()
        world.settle_down()

    (gap,) = [line["gap_ms"] for line in logs if line["event"] == "daemon.was_away"]
    assert 100_000 <= gap <= 105_000 + 1_000


def test_our_own_absence_costs_nobody_a_lease(world: World) -> None:
    worker = started(world)

    world.elapsed += 100  # the daemon was stopped: no tick in between
    with capture_logs() as logs:
        world.settle_down()
    assert [] == ends(world)
    assert ["daemon.was_away"] == [line["event"] for line in logs if "gap_ms" in line]
    assert ["lost"] == ends_after_quiet(world, 29.9, 0.2)
    assert worker.answers == []


def test_a_restart_after_a_long_absence_costs_nobody_a_lease(world: World) -> None:
    started(world)
    world.run_for(6)  # the node's row is written

    world.elapsed += 100
    world.restart()
    assert [] == ends(world)
    world.run_for(31)

    assert ["lost"] == ends(world)


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_r09_a_step_of_the_clock_costs_nobody_a_lease_and_prolongs_none(
    world: World, step: float
) -> None:
    worker = started(world)
    world.run_for(20)

    world.step_clock(step)
    world.settle_down()
    assert [] == ends(world)
    expiry = world.runs(worker.task_id)[0].lease_expires_at
    assert expiry is not None
    assert expiry <= world.now() + 2 * 30_000
    world.run_for(31)

    assert ["lost"] == ends(world)


# Declarations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "facts", "state", "outcome"),
    [
        (Declared.SUCCEED, {"result": "1"}, TaskState.SUCCEEDED, Outcome.SUCCEEDED),
        (Declared.FAIL, {"reason": "no"}, TaskState.SCHEDULED, Outcome.FAILED),
        (Declared.FAIL, {"reason": "no", "retry": False}, TaskState.FAILED, Outcome.FAILED),
        (Declared.DEFER, {"delay_ms": 5_000}, TaskState.SCHEDULED, Outcome.DEFERRED),
        (Declared.HOLD, {"reason": "look"}, TaskState.HELD, Outcome.HELD),
    ],
)
def test_a_declaration_outranks_the_exit(
    world: World, word: Declared, facts: dict[str, Any], state: TaskState, outcome: Outcome
) -> None:
    worker = started(world)

    assert Accepted() == worker.declare(word, **facts)
    assert TaskState.RUNNING is world.state(worker.task_id)
    world.gone(worker.task_id, 1)

    assert (state, outcome) == (
        world.state(worker.task_id),
        world.runs(worker.task_id)[0].outcome,
    )


def test_a_deferral_takes_the_requested_delay(world: World) -> None:
    worker = started(world)
    worker.declare(Declared.DEFER, delay_ms=5_000)
    world.gone(worker.task_id, 0)

    assert 5_000 == world.task(worker.task_id).run_at - world.now()


def declarations(logs: list[Any]) -> list[int]:
    return [line["task_id"] for line in logs if line["event"] == "run.declared"]


@pytest.mark.parametrize("grace", [0.0, 0.5, 10.0])
def test_a_declaration_in_the_store_is_logged_once_although_repeated_and_ended(
    world: World, grace: float
) -> None:
    start = replace(world.settings.start, exit_grace=grace)
    world.fresh_supervisor(start=start)
    worker = started(world)
    world.run_for(3)  # the next tick looks for what was declared past the daemon

    with capture_logs() as logs:
        for _ in range(2):
            assert Accepted() == worker.declare(Declared.SUCCEED)
        world.run_for(12)
        assert Accepted() == worker.declare(Declared.SUCCEED)
        world.run_for(12)

    assert [worker.task_id] == declarations(logs)
    assert ["succeeded"] == ends(world)


def test_a_declaration_in_the_store_is_logged_once_although_its_end_is_sent_late(
    world: World,
) -> None:
    """The ending is committed, and the store is silent before the executor receives it."""
    store: Any = Unwell(world.store)
    world.store = store
    world.restart()
    worker = started(world)
    with store.transaction() as now:
        words = Declaration(task_id=worker.task_id, lock=worker.lock, word=Declared.SUCCEED)
        assert Accepted() == store.declare(words, now=now)
    grace = world.settings.start.exit_grace

    with capture_logs() as logs:
        world.run_for(2)
        world.elapsed += grace
        decided: Any = [(None, True)] * 5
        silent = [(StoreUnavailable("locked"), False)] * 8
        store.failures = [(StoreRefused("CHECK failed"), False), *decided, *silent]
        world.run_for(3 * grace)

    assert [worker.task_id] == declarations(logs)
    assert (["succeeded"], []) == (ends(world), store.failures)


def test_r19_a_worker_that_declared_and_does_not_exit_is_ended_after_its_grace(
    world: World,
) -> None:
    worker = started(world)
    worker.declare(Declared.SUCCEED)

    assert ["succeeded"] == ends_after_quiet(world, 9.9, 0.2)
    world.gone(worker.task_id, None, signal=9)

    assert TaskState.SUCCEEDED is world.state(worker.task_id)


def test_a_declaration_survives_the_death_of_the_executor(world: World) -> None:
    worker = started(world)
    worker.declare(Declared.SUCCEED)

    world.executor.die()
    world.restart()

    assert TaskState.SUCCEEDED is world.state(worker.task_id)


def test_a_declaration_survives_a_restart_and_its_grace_begins_anew(world: World) -> None:
    worker = started(world)
    worker.declare(Declared.SUCCEED)

    world.restart()
    world.run_for(10.1)

    assert ["succeeded"] == ends(world)


def test_a_declaration_outranks_a_drain(world: World) -> None:
    worker = started(world)
    worker.declare(Declared.FAIL, reason="done for", retry=False)

    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    world.settle_down()
    world.gone(worker.task_id, None, signal=15)

    assert TaskState.FAILED is world.state(worker.task_id)
    assert "done for" in world.task(worker.task_id).reason


def test_no_wait_is_longer_than_a_quarter_of_the_shortest_lease() -> None:
    world = World(settings=replace(SETTINGS, poll=1.0))
    world.submit("work", liveness=Liveness.WORKER, lease_ttl_ms=400)

    world.start()

    assert world.deadline - world.at() <= 0.1 + 1e-9


def test_leases_wait_while_workers_cannot_connect_and_begin_anew_when_they_can(
    world: World,
) -> None:
    worker = started(world)
    world.executor.events.append(wire.Door(shut="/run: No space left on device"))
    with capture_logs() as logged:
        world.run_for(3600)
    assert [] == ends(world)
    shut_out = world.supervisor.report(at=world.at()).workers_shut_out
    assert "/run: No space left on device" == shut_out
    assert ["workers.unreachable"] == [e["event"] for e in logged if e["log_level"] == "warning"]

    world.executor.events.append(wire.Door())
    world.tick()
    world.run_for(29)
    assert [] == ends(world)
    assert world.supervisor.report(at=world.at()).workers_shut_out is None
    world.run_for(2)

    assert ["lost"] == ends(world)
    assert [] == worker.answers


def test_a_lease_that_expired_while_the_sockets_were_missing_is_renewed_and_not_reaped(
    world: World,
) -> None:
    """The word of it comes before the answer by which the lease would be judged."""
    started(world)
    world.executor.mute = True
    world.run_for(31)
    world.executor.mute = False
    world.executor.events.append(wire.Door())
    with capture_logs() as logged:
        world.tick()

    assert [("workers.reachable", 1)] == [
        (e["event"], e["leases"]) for e in logged if "leases" in e
    ]
    world.run_for(29)
    assert [] == ends(world)


def test_nobody_is_late_with_its_first_beat_or_stalled_while_it_cannot_connect(
    world: World,
) -> None:
    started(world, start_timeout_ms=20_000, stall_timeout_ms=25_000, lease_ttl_ms=3_600_000)
    world.executor.events.append(wire.Door(shut="gone"))
    world.run_for(300)
    world.executor.events.append(wire.Door())
    world.run_for(19)
    assert [] == ends(world)

    world.run_for(2)

    assert ["lost"] == ends(world)


def test_a_first_beat_that_may_have_failed_a_moment_ago_has_its_whole_time_again(
    world: World,
) -> None:
    started(world, start_timeout_ms=20_000, lease_ttl_ms=3_600_000)
    world.run_for(19)
    world.executor.events.append(wire.Door())
    world.tick()

    world.run_for(19)

    assert [] == ends(world)


def test_a_run_time_out_holds_also_while_workers_cannot_connect(world: World) -> None:
    started(world, run_timeout_ms=60_000)
    world.executor.events.append(wire.Door(shut="gone"))

    world.run_for(61)

    assert ["timed_out"] == ends(world)


def test_a_new_executor_has_sockets_until_it_reports_otherwise(world: World) -> None:
    started(world)
    world.executor.events.append(wire.Door(shut="gone"))
    world.run_for(1)

    world.executor.greet()
    world.run_for(1)

    assert world.supervisor.report(at=world.at()).workers_shut_out is None
