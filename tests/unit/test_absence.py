"""Takeover and absence in virtual time: which nodes are silent, and which report in time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.errors import StoreUnavailable
from dispatcher.execution import LOCAL, Claim
from dispatcher.model import Declared, Liveness, Node, Outcome, TaskState
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.turn import Request
from dispatcher.times import StoreTime
from dispatcher.words import Beat, Declaration, Renewed
from dispatcher.worker_api import WorkerError
from tests.simulation import NODE, SETTINGS, World

LIMIT = 100.0

#: What `takeover_at` adds to the limit: 2 s, the kill grace and the margin.
BEYOND = 2 + 10 + 15


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def shared(world: World) -> World:
    """A world whose store nodes on other hosts share."""
    store: Any = world.store
    store.engine.dialect = replace(store.engine.dialect, shared=True)
    return world


@pytest.fixture
def limited() -> World:
    return World(settings=replace(SETTINGS, absence_limit=LIMIT))


def claim_local(world: World, **facts: Any) -> Claim:
    world.submit("work", **{"queue": "hand", "lease_ttl_ms": 30_000, **facts})
    with world.store.transaction() as now:
        claim = world.store.claim_local("hand", owner=f"{LOCAL}me", output_dir="/o", now=now)
    assert claim is not None
    return claim


def claim_elsewhere(world: World, *, takeover_in: float | None) -> Claim:
    world.submit("work", queue="far", kill_grace_ms=0)
    with world.store.transaction() as now:
        until = None if takeover_in is None else StoreTime(now + round(takeover_in * 1000))
        (claim,) = world.store.claim(
            "far", limit=1, node="far", output_dir="/o", until=until, now=now
        )
    return claim


def column(world: World, name: str, task_id: int) -> Any:
    with world.store.snapshot():
        engine: Any = world.store
        query = f"SELECT {name} FROM runs WHERE task_id = :id AND outcome IS NULL"
        ((value,),) = engine.engine.rows(query, {"id": task_id})
    return value


def renewals(world: World) -> list[wire.Renew]:
    return [message for message in world.executor.sent if isinstance(message, wire.Renew)]


def outcomes(world: World, task_id: int) -> list[Outcome | None]:
    return [run.outcome for run in world.runs(task_id)]


# Local claims ------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [True, False])
def test_a_silent_local_claim_is_lost_at_its_expiry_whether_or_not_an_executor_answers(
    world: World, *, executor: bool
) -> None:
    claim = claim_local(world)
    world.start()
    world.executor.answering = executor

    world.run_for(29.9)
    assert [None] == outcomes(world, claim.task_id)
    world.run_for(0.1)

    task = world.task(claim.task_id)
    assert [Outcome.LOST] == outcomes(world, claim.task_id)
    assert (TaskState.SCHEDULED, 1) == (task.state, task.attempts_used)
    assert "lease of 30 s expired" in task.reason


def test_a_lost_local_claim_runs_again_with_the_next_fence(world: World) -> None:
    claim = claim_local(world)
    world.start()

    world.run_for(45)

    assert (TaskState.RUNNING, 2) == (world.state(claim.task_id), world.task(claim.task_id).fence)
    with world.store.transaction() as now:
        answer = world.store.heartbeat([Beat(task_id=claim.task_id, lock=claim.lock)], now=now)[0]
    assert getattr(answer, "error", None) is WorkerError.SUPERSEDED


def test_ac11_a_local_claim_made_between_two_scans_is_found_within_one(world: World) -> None:
    world.start()
    world.run_for(1)
    claim = claim_local(world, lease_ttl_ms=1_000)

    world.run_for(SETTINGS.reap_interval + 0.1)

    assert [Outcome.LOST] == outcomes(world, claim.task_id)


def test_ac9_a_diligent_local_claim_is_never_taken(world: World) -> None:
    claim = claim_local(world)
    world.start()

    for _ in range(30):
        world.run_for(10)
        with world.store.transaction() as now:
            beat = Beat(task_id=claim.task_id, lock=claim.lock)
            assert isinstance(world.store.heartbeat([beat], now=now)[0], Renewed)

    assert [None] == outcomes(world, claim.task_id)


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_r09_a_step_of_the_clock_costs_no_local_claim(world: World, step: float) -> None:
    claim = claim_local(world)
    world.start()
    world.run_for(20)

    world.step_clock(step)
    world.settle_down()
    world.run_for(9.9)
    assert [None] == outcomes(world, claim.task_id)
    world.run_for(SETTINGS.reap_interval + 0.2)

    assert [Outcome.LOST] == outcomes(world, claim.task_id)


def test_a_local_claims_declaration_over_the_socket_is_settled_in_the_same_tick(
    world: World,
) -> None:
    claim = claim_local(world)
    world.start()
    world.run_for(1)
    declaration = Declaration(task_id=claim.task_id, lock=claim.lock, word=Declared.SUCCEED)

    world.tick(Request(declaration, lambda *_: None))

    assert TaskState.SUCCEEDED is world.state(claim.task_id)


def test_r18_a_cancelled_local_claim_is_settled_without_any_process(world: World) -> None:
    claim = claim_local(world)
    world.start()

    world.cancel(claim.task_id)  # in the store alone, as a client that died before its settle
    world.run_for(SETTINGS.reap_interval)

    assert [Outcome.CANCELLED] == outcomes(world, claim.task_id)
    assert TaskState.CANCELLED is world.state(claim.task_id)


def test_more_than_one_batch_is_taken_at_once(world: World) -> None:
    for _ in range(250):
        claim_local(world)
    world.start()

    world.run_for(30)

    with world.store.snapshot():
        assert {TaskState.SCHEDULED: 250} == world.store.counts()["hand"]


# Other nodes -------------------------------------------------------------------------------


def test_a_silent_nodes_claim_is_orphaned_from_its_takeover_on(shared: World) -> None:
    world = shared
    claim = claim_elsewhere(world, takeover_in=50)
    world.start()

    world.run_for(49.9)
    assert [None] == outcomes(world, claim.task_id)
    world.run_for(0.2)

    task = world.task(claim.task_id)
    assert Outcome.ORPHANED is outcomes(world, claim.task_id)[0]
    assert (TaskState.RUNNING, 0, 2) == (task.state, task.attempts_used, task.fence)


def test_a_daemon_on_a_shared_store_takes_over_nothing_for_5_s_after_it_began() -> None:
    """The store may have just returned from an outage, which silenced all nodes."""
    session = NodeSession(uid="s", boot_id="b", pid_namespace="p", state_dir="/s")
    world = World(settings=replace(SETTINGS, session=session))
    store: Any = world.store
    store.engine.dialect = replace(store.engine.dialect, shared=True)
    claim, local = claim_elsewhere(world, takeover_in=-60), claim_local(world)
    silent = claim_local(world, lease_ttl_ms=1_000)
    world.start()
    world.run_for(2)
    declared = Declaration(task_id=local.task_id, lock=local.lock, word=Declared.SUCCEED)
    world.tick(Request(declared, lambda *_: None))

    world.run_for(2.9)
    assert [None] == outcomes(world, claim.task_id)
    assert TaskState.SUCCEEDED is world.state(local.task_id)  # no node has to return for it
    assert [None] == outcomes(world, silent.task_id)
    world.run_for(0.2)

    assert Outcome.ORPHANED is outcomes(world, claim.task_id)[0]
    assert [Outcome.LOST] == outcomes(world, silent.task_id)


@pytest.mark.parametrize("search", ["stranded", "abandoned"])
def test_a_claim_whose_row_was_locked_is_taken_over_a_second_later(
    shared: World, search: str
) -> None:
    world = shared
    claim = (
        claim_elsewhere(world, takeover_in=0.5)
        if search == "stranded"
        else claim_local(world, lease_ttl_ms=500)
    )
    found = getattr(world.store, search)
    setattr(world.store, search, lambda *_, **__: [])
    world.start()
    world.run_for(0.6)
    setattr(world.store, search, found)
    assert [None] == outcomes(world, claim.task_id)

    world.run_for(1)

    assert outcomes(world, claim.task_id)[0] in (Outcome.ORPHANED, Outcome.LOST)


def test_a_node_that_need_not_confirm_keeps_its_claim_for_ever(shared: World) -> None:
    world = shared
    claim = claim_elsewhere(world, takeover_in=None)
    world.start()

    world.run_for(1_000)

    assert [None] == outcomes(world, claim.task_id)


PRECEDENCE = pytest.mark.parametrize(
    ("declared", "ending", "outcome"),
    [
        (True, True, Outcome.SUCCEEDED),
        (False, True, Outcome.TIMED_OUT),
        (False, False, Outcome.ORPHANED),
    ],
)


def record(world: World, claim: Claim, *, declared: bool, ending: bool) -> None:
    """Let a claim's worker have declared success, and its ending have begun."""
    with world.store.transaction() as now:
        if declared:
            declaration = Declaration(task_id=claim.task_id, lock=claim.lock, word=Declared.SUCCEED)
            world.store.declare(declaration, now=now)
        if ending:
            world.store.begin_ending(claim.run_uid, Outcome.TIMED_OUT, "too long", now=now)


@PRECEDENCE
def test_a_takeover_settles_as_declared_then_as_its_ending_then_as_orphaned(
    world: World, *, declared: bool, ending: bool, outcome: Outcome
) -> None:
    claim = claim_elsewhere(world, takeover_in=1)
    record(world, claim, declared=declared, ending=ending)
    world.start()

    world.run_for(1)

    assert outcome is outcomes(world, claim.task_id)[0]


# This node's own presence ------------------------------------------------------------------


def test_claim_and_start_carry_the_first_deadline(limited: World) -> None:
    task = limited.submit("work")
    at, now = limited.at(), limited.now()

    limited.start()

    assert {"absence": at + LIMIT + 2} == limited.executor.starts[0].deadlines
    assert now + (LIMIT + BEYOND) * 1000 == column(limited, "takeover_at", task)


def test_r85_a_healthy_daemon_confirms_its_runs_each_quarter_of_the_limit(limited: World) -> None:
    task = limited.submit("work")
    limited.start()

    for _ in range(40):
        limited.run_for(LIMIT / 4)
        deadline = renewals(limited)[-1].deadlines[limited.uid(task)]["absence"]
        assert LIMIT * 0.7 < deadline - limited.at() <= LIMIT + 2
        takeover_in = column(limited, "takeover_at", task) / 1000 - limited.now() / 1000
        # Whatever the executor received: ended, and the margin over, before any other node claims.
        assert takeover_in >= deadline - limited.at() + 10 + 15 - 0.001

    assert len(renewals(limited)) < 45
    assert [None] == outcomes(limited, task)


def test_a_deadline_counts_from_before_its_transaction(limited: World) -> None:
    """The time of a slow commit is not time in which anybody confirmed."""
    limited.submit("work")
    limited.start()
    commit = limited.store.transaction

    def slow() -> Any:
        limited.elapsed += 7
        return commit()

    limited.run_for(LIMIT / 4 - 1)
    limited.elapsed += 1
    at = limited.at()
    limited.store.transaction = slow  # type: ignore[method-assign]
    limited.tick()

    (deadlines,) = renewals(limited)[-1].deadlines.values()
    assert {"absence": at + LIMIT + 2} == deadlines


@pytest.mark.parametrize("restarted", [False, True])
def test_a_run_is_confirmed_with_the_kill_grace_that_its_executor_received(
    limited: World, *, restarted: bool
) -> None:
    """A reload to a shorter one must not let others start while it is still being ended."""
    task = limited.submit("work")
    limited.start()
    if restarted:
        limited.restart(kill_grace=0.0)
    else:
        limited.supervisor.reconfigure(replace(limited.settings, kill_grace=0.0))

    limited.run_for(LIMIT / 4)

    graces = [start.kill_grace for start in limited.executor.starts]
    ahead = (column(limited, "takeover_at", task) - limited.now()) / 1000
    assert ([10.0], LIMIT + BEYOND) == (graces, ahead)


def test_nothing_is_confirmed_that_was_not_committed(limited: World) -> None:
    limited.submit("work")
    limited.start()
    before = len(renewals(limited))
    transaction = limited.store.transaction

    @contextmanager
    def failing() -> Iterator[Any]:
        with transaction() as now:
            yield now
            raise StoreUnavailable("the disk is full")

    limited.store.transaction = failing  # type: ignore[method-assign]
    limited.run_for(2 * LIMIT)
    assert before == len(renewals(limited))
    limited.store.transaction = transaction  # type: ignore[method-assign]
    limited.run_for(2)

    assert before < len(renewals(limited))


def test_without_a_limit_nothing_is_written_or_sent(world: World) -> None:
    task = world.submit("work")
    world.start()
    before = len(renewals(world))

    world.run_for(1_000)

    assert {} == world.executor.starts[0].deadlines
    assert before == len(renewals(world))
    assert column(world, "takeover_at", task) is None


def test_a_restart_without_a_limit_lifts_the_deadlines_of_the_old_one(limited: World) -> None:
    task = limited.submit("work")
    limited.start()

    limited.restart(absence_limit=None)

    deadline = renewals(limited)[-1].deadlines[limited.uid(task)]["absence"]
    assert deadline > limited.at() + 10 * 365 * 86_400
    assert column(limited, "takeover_at", task) is None


def test_a_daemon_that_is_back_confirms_at_once(limited: World) -> None:
    task = limited.submit("work")
    limited.start()
    limited.run_for(LIMIT / 8)

    limited.restart()

    deadline = renewals(limited)[-1].deadlines[limited.uid(task)]["absence"]
    assert limited.at() + LIMIT + 2 == deadline


@pytest.mark.parametrize("step", [0.0, 3600.0])
def test_nobody_takes_over_its_own_claims_after_standing_still_or_a_step(
    limited: World, step: float
) -> None:
    task = limited.submit("work")
    limited.start()

    limited.elapsed += 10 * LIMIT
    limited.step_clock(step)
    limited.settle_down()

    assert [None] == outcomes(limited, task)
    assert column(limited, "takeover_at", task) > limited.now()


def test_a_run_that_the_executor_ended_in_our_absence_is_orphaned_and_runs_again(
    limited: World,
) -> None:
    task = limited.submit("work")
    limited.start()
    uid = limited.uid(task)
    limited.elapsed += 2 * LIMIT
    limited.executor.events.append(
        wire.Changed(uid=uid, state=wire.RunState.ENDING, ended_by=wire.EndedBy.ABSENCE)
    )
    limited.settle_down()
    assert TaskState.RUNNING is limited.state(task)

    limited.gone(task, None, signal=15)

    assert [Outcome.ORPHANED, None] == outcomes(limited, task)
    assert (0, 1) == (limited.task(task).attempts_used, limited.task(task).orphans)


# Declared past the daemon ------------------------------------------------------------------


def test_r19_a_declaration_by_command_line_gives_the_exit_grace_too(world: World) -> None:
    task = world.submit("work")
    world.start()
    lock = world.executor.starts[0].env["DISPATCHER_CLAIM_LOCK"]
    with world.store.transaction() as now:
        world.store.declare(Declaration(task_id=task, lock=lock, word=Declared.SUCCEED), now=now)

    world.run_for(9.9)
    assert [] == [m for m in world.executor.sent if isinstance(m, wire.End)]
    world.run_for(2.0)
    assert ["succeeded"] == [m.reason for m in world.executor.sent if isinstance(m, wire.End)]
    world.gone(task, None, signal=9)

    assert TaskState.SUCCEEDED is world.state(task)


# Node identity -----------------------------------------------------------------------------


def test_r16_a_new_hostname_changes_nothing(world: World) -> None:
    silent = world.submit("work", liveness=Liveness.WORKER, lease_ttl_ms=30_000)
    process = world.submit("work", lease_ttl_ms=30_000)
    world.start()

    world.restart(hostname="another")
    world.run_for(31)

    assert ["lost"] == [m.reason for m in world.executor.sent if isinstance(m, wire.End)]
    assert Outcome.LOST is world.task(silent).ending
    assert [None] == outcomes(world, process)


def test_r16_another_node_of_the_same_hostname_is_another(shared: World) -> None:
    world = shared
    claim = claim_elsewhere(world, takeover_in=None)
    world.start()
    with world.store.transaction() as now:
        far = Node(
            id="far",
            boot_id="boot",
            pid_namespace="pid:[2]",
            hostname=SETTINGS.hostname,
            slots=1,
            seen_at=now,
            seen_interval_ms=5_000,
        )
        world.store.record_node(far)
    expiry = world.runs(claim.task_id)[0].lease_expires_at

    world.restart()
    world.run_for(120)

    (run,) = world.runs(claim.task_id)
    assert (None, expiry) == (run.outcome, run.lease_expires_at)
    assert [] == [m for m in world.executor.sent if isinstance(m, wire.End)]


def test_the_node_of_the_simulation_is_not_a_local_owner() -> None:
    assert not NODE.startswith(LOCAL)
