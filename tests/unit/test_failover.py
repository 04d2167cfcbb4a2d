"""Failovers in virtual time, in every order of events: no twin, nothing waits for ever."""

import random
from typing import Any

import pytest
import structlog

from dispatcher import wire
from dispatcher.errors import StoreUnavailable
from dispatcher.execution import LOCAL, Claim
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.store.statements import history
from dispatcher.supervisor.abandoned import settle_of_node
from dispatcher.supervisor.turn import Request
from dispatcher.times import StoreTime
from dispatcher.words import Beat, Declaration, Refused, Renewed
from dispatcher.worker_api import WorkerError
from tests.unit.replicated import BEYOND, GRACE, LIMIT, Cluster, Host

#: Seconds after a failover in which nodes that the replica forgot may come back.
RETURN = 10.0


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def here(cluster: Cluster) -> Host:
    return cluster.host("here")


def elsewhere(cluster: Cluster, **changes: Any) -> Host:
    """Start a second node, as idle as the first."""
    host = cluster.host("there", **changes)
    cluster.run_for(1)
    return host


def lives(*hosts: Host) -> dict[int, int]:
    """Return how many processes live of each task, by the executors."""
    counted: dict[int, int] = {}
    for host in hosts:
        for start in host.executor.starts:
            run = host.executor.runs.get(start.uid)
            if run is not None and run.state is not wire.RunState.GONE:
                task_id = int(start.env["DISPATCHER_TASK_ID"])
                counted[task_id] = counted.get(task_id, 0) + 1
    return counted


def outcomes(host: Host, task_id: int) -> list[Outcome | None]:
    return [run.outcome for run in host.runs(task_id)]


def forgotten_claim(cluster: Cluster, host: Host, **facts: Any) -> tuple[int, wire.RunUid]:
    """Let a host claim and start a task of which the replica knows only that it is ready."""
    others = [one for one in cluster.hosts if one is not host]
    for one in others:
        one.shared.is_cut = True
    task_id = host.submit("work", **facts)
    cluster.server.part()
    host.settle_down()
    host.run_for(0.1)
    for one in others:
        one.elapsed = host.elapsed
        one.shared.is_cut = False
    assert TaskState.RUNNING is host.state(task_id)
    return task_id, host.uid(task_id)


# What was forgotten ------------------------------------------------------------------------


def test_a_worker_of_a_forgotten_claim_is_ended_before_its_task_runs_again(
    cluster: Cluster, here: Host
) -> None:
    task_id, uid = forgotten_claim(cluster, here)
    cluster.server.fail_over()

    cluster.run_for(RETURN + 5)
    assert wire.RunState.ENDING is here.executor.runs[uid].state
    assert (TaskState.READY, []) == (here.state(task_id), here.runs(task_id))
    here.executor.gone(uid)
    cluster.run_for(2)

    (run,) = here.runs(task_id)
    assert uid not in here.executor.runs
    assert (run.outcome, run.fence > 2**40) == (None, True)


def test_the_exit_of_a_forgotten_run_is_recorded_nowhere_and_its_task_runs_again(
    cluster: Cluster, here: Host
) -> None:
    task_id, uid = forgotten_claim(cluster, here)
    cluster.server.fail_over()
    here.executor.gone(uid)

    cluster.run_for(RETURN + 2)

    (run,) = here.runs(task_id)
    assert (run.outcome, run.uid != uid) == (None, True)


def test_the_lock_of_a_forgotten_claim_is_refused(cluster: Cluster, here: Host) -> None:
    task_id, uid = forgotten_claim(cluster, here, liveness=Liveness.WORKER)
    with here.store.snapshot():
        found = here.store.locks_of([uid]).get(uid)
    assert found is not None
    cluster.server.fail_over()
    answers: list[object] = []
    beat = Beat(task_id=task_id, lock=found[1])

    def ask() -> None:
        here.tick(Request(beat, lambda answer, _: answers.append(answer)))

    ask()
    cluster.run_for(1)
    ask()

    assert answers[0] is None
    assert isinstance(answers[1], Refused)
    assert WorkerError.NOT_RUNNING is answers[1].error


def test_a_run_that_was_settled_and_is_open_again_gets_its_outcome_again(
    cluster: Cluster, here: Host
) -> None:
    task_id = here.submit("work")
    here.settle_down()
    cluster.run_for(1)
    cluster.server.part()
    here.gone(task_id, 0)
    assert TaskState.SUCCEEDED is here.state(task_id)

    cluster.server.fail_over()
    assert TaskState.RUNNING is here.state(task_id)
    cluster.run_for(2)

    assert ([Outcome.SUCCEEDED], TaskState.SUCCEEDED) == (
        outcomes(here, task_id),
        here.state(task_id),
    )


def test_a_new_daemon_settles_such_a_run_as_orphaned_as_nobody_knows_its_outcome(
    cluster: Cluster, here: Host
) -> None:
    task_id = here.submit("work")
    here.settle_down()
    cluster.run_for(1)
    cluster.server.part()
    here.gone(task_id, 0)
    cluster.server.fail_over()

    here.restart()
    cluster.run_for(RETURN + 2)

    assert [Outcome.ORPHANED, None] == outcomes(here, task_id)


def test_a_declaration_that_was_forgotten_is_recorded_again(cluster: Cluster, here: Host) -> None:
    task_id = here.submit("work", liveness=Liveness.WORKER)
    here.settle_down()
    uid = here.uid(task_id)
    with here.store.snapshot():
        found = here.store.locks_of([uid]).get(uid)
    assert found is not None
    cluster.server.part()
    declaration = Declaration(
        task_id=task_id, lock=found[1], word=Declared.FAIL, reason="no", retry=False
    )
    here.tick(Request(declaration, lambda *_: None))
    cluster.server.fail_over()

    cluster.run_for(2)
    here.gone(task_id, 0)

    assert ([Outcome.FAILED], TaskState.FAILED) == (outcomes(here, task_id), here.state(task_id))


def test_a_task_that_was_acknowledged_and_is_forgotten_leaves_nothing_that_runs(
    cluster: Cluster, here: Host
) -> None:
    cluster.server.part()
    task_id = here.submit("work")
    here.settle_down()
    uid = here.uid(task_id)
    cluster.server.fail_over()

    cluster.run_for(1)

    with here.store.snapshot():
        assert here.store.task(task_id) is None
    assert wire.RunState.ENDING is here.executor.runs[uid].state
    here.executor.gone(uid)
    cluster.run_for(1)
    assert {} == here.executor.runs


def test_what_was_not_forgotten_goes_on_and_costs_no_lease(cluster: Cluster, here: Host) -> None:
    task_id = here.submit("work", liveness=Liveness.WORKER, lease_ttl_ms=30_000)
    here.settle_down()
    cluster.server.part()
    cluster.run_for(29)  # its beats until now are forgotten
    cluster.server.fail_over()

    cluster.run_for(29)

    assert [None] == outcomes(here, task_id)
    assert {task_id: 1} == lives(here)
    cluster.run_for(5)
    assert wire.RunState.ENDING is here.executor.runs[here.uid(task_id)].state


# Who waits for whom ------------------------------------------------------------------------


def test_no_node_claims_before_the_other_has_ended_its_forgotten_workers(
    cluster: Cluster, here: Host
) -> None:
    there = elsewhere(cluster)
    task_id, uid = forgotten_claim(cluster, there)
    cluster.server.fail_over()

    cluster.run_for(LIMIT / 2)
    assert [] == here.runs(task_id)
    postponed = here.supervisor.report(at=here.at()).claims_postponed
    assert postponed is not None
    assert "until there has compared its runs" in postponed
    there.executor.gone(uid)
    cluster.run_for(2)

    assert [None] == outcomes(here, task_id)
    assert here.supervisor.report(at=here.at()).claims_postponed is None


def test_a_node_that_is_cut_off_meanwhile_has_ended_its_workers_before_another_claims(
    cluster: Cluster, here: Host
) -> None:
    there = elsewhere(cluster)
    task_id, uid = forgotten_claim(cluster, there)
    there.shared.is_cut = True
    dies_at = there.kill_deadline(uid) + GRACE
    cluster.server.fail_over()

    while not here.runs(task_id):
        cluster.run_for(1, step=1)
    claimed_at = here.elapsed
    assert dies_at <= claimed_at <= dies_at + BEYOND + 5

    there.executor.gone(uid)
    there.shared.is_cut = False
    cluster.run_for(2)
    assert [None] == outcomes(here, task_id)
    assert "here" == here.runs(task_id)[0].node


def test_a_daemon_that_starts_after_the_failover_ends_what_its_executor_has_of_it(
    cluster: Cluster, here: Host
) -> None:
    there = elsewhere(cluster)
    task_id, uid = forgotten_claim(cluster, there)
    there.shared.is_cut = True  # its daemon is dead
    cluster.server.fail_over()
    cluster.run_for(RETURN + 5)
    assert [] == here.runs(task_id)

    there.shared.is_cut = False
    there.restart()
    cluster.run_for(1)

    assert wire.RunState.ENDING is there.executor.runs[uid].state
    there.executor.gone(uid)
    cluster.run_for(2)
    assert 1 == len(here.runs(task_id))


def test_a_node_whose_row_was_forgotten_too_is_awaited_once_it_is_back(
    cluster: Cluster, here: Host
) -> None:
    task_id = here.submit("work", queue="far")
    with here.store.transaction():
        here.store.pause("far", "only later", now=here.now())
    cluster.server.part()
    there = elsewhere(cluster)
    with here.store.transaction() as now:
        here.store.resume("far", now=now)
    here.shared.is_cut = True
    cluster.run_for(2)
    uid = there.uid(task_id)
    here.shared.is_cut = False

    cluster.server.fail_over()
    with here.store.transaction() as now:
        here.store.resume("far", now=now)
    cluster.run_for(LIMIT / 2)

    assert [] == here.runs(task_id)
    there.executor.gone(uid)
    cluster.run_for(2)
    assert 1 == len(here.runs(task_id))


def test_a_node_without_a_limit_holds_claims_back_until_an_operator_forgets_it(
    cluster: Cluster, here: Host
) -> None:
    there = elsewhere(cluster)
    there.fresh_supervisor(absence_limit=None)
    there.restart()
    cluster.run_for(15)
    task_id, _ = forgotten_claim(cluster, there)
    there.shared.is_cut = True
    cluster.server.fail_over()

    cluster.run_for(10 * LIMIT, step=5)
    assert [] == here.runs(task_id)
    postponed = here.supervisor.report(at=here.at()).claims_postponed
    assert postponed is not None
    assert "dispatcher node forget" in postponed
    with here.store.transaction() as now:
        assert here.store.forget_node("there", now=now)
    cluster.run_for(2)

    assert [None] == outcomes(here, task_id)


def test_a_dead_node_without_a_limit_that_holds_a_claim_holds_none_back_once_it_is_forgotten(
    cluster: Cluster, here: Host
) -> None:
    there = elsewhere(cluster)
    there.fresh_supervisor(absence_limit=None)
    there.restart()
    cluster.run_for(15)
    here.shared.is_cut = True
    task_id = there.submit("work")
    there.run_for(2)
    here.elapsed = there.elapsed
    here.shared.is_cut = False
    there.shared.is_cut = True
    cluster.server.fail_over()
    cluster.run_for(2 * LIMIT, step=5)
    other = here.submit("work")
    cluster.run_for(2)
    assert [[None], []] == [outcomes(here, one) for one in (task_id, other)]

    with here.store.transaction() as now:
        assert 1 == settle_of_node(here.store, "there", rng=random.Random(1), now=now)
        assert here.store.forget_node("there", now=now)
    cluster.run_for(2)

    assert [Outcome.ORPHANED, None] == outcomes(here, task_id)
    assert [None] == outcomes(here, other)


def test_once_claims_go_on_no_tick_asks_again_for_a_node_that_never_returns(
    cluster: Cluster, here: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = elsewhere(cluster)
    cluster.run_for(15)
    there.shared.is_cut = True
    cluster.server.fail_over()
    cluster.hosts.remove(there)
    cluster.run_for(400, step=5)
    engine, asked = here.server.engine, 0
    rows = engine.rows

    def counted(statement: str, *values: Any) -> Any:
        nonlocal asked
        asked += statement == history.AWAITED
        return rows(statement, *values)

    monkeypatch.setattr(engine, "rows", counted)
    tasks = [here.submit("work", delay_ms=2_000 * n) for n in range(1, 3)]
    cluster.run_for(10)

    assert [[None]] * 2 == [outcomes(here, task) for task in tasks]
    assert 0 == asked


def test_a_node_that_was_forgotten_and_comes_back_is_not_awaited_for_the_last_failover(
    cluster: Cluster, here: Host
) -> None:
    there = elsewhere(cluster)
    cluster.server.fail_over()
    cluster.run_for(RETURN + 5)
    there.shared.is_cut = True
    cluster.run_for(60)
    with here.store.transaction() as now:
        assert here.store.forget_node("there", now=now)
    there.shared.is_cut = False
    cluster.run_for(20)

    with here.store.snapshot():
        rows = {row.id: row.timeline for row in here.store.nodes()}

    assert {"here": 2, "there": 2} == rows


def test_a_node_that_left_before_is_not_awaited(cluster: Cluster, here: Host) -> None:
    there = elsewhere(cluster)
    there.shared.is_cut = True
    cluster.run_for(120, step=5)
    task_id = here.submit("work", queue="late", delay_ms=5_000)
    cluster.server.fail_over()

    cluster.run_for(RETURN + 2)

    assert [None] == outcomes(here, task_id)


def test_after_a_long_loss_claims_wait_for_as_long_as_a_forgotten_node_may_work(
    cluster: Cluster, here: Host
) -> None:
    cluster.server.part()
    cluster.run_for(300, step=5)
    task_id = -1
    cluster.server.fail_over()
    task_id = here.submit("work")

    cluster.run_for(LIMIT + BEYOND - 2)
    assert [] == here.runs(task_id)
    cluster.run_for(3)
    assert [None] == outcomes(here, task_id)


def test_each_of_two_failovers_is_noticed(cluster: Cluster, here: Host) -> None:
    fences = []
    for _ in range(2):
        task_id, uid = forgotten_claim(cluster, here)
        cluster.server.fail_over()
        cluster.run_for(1)
        here.executor.gone(uid)
        cluster.run_for(RETURN + 2)
        fences.append(here.runs(task_id)[-1].fence)
        here.gone(task_id)
        cluster.run_for(1)

    assert 2**40 < fences[0] < 2**41 < fences[1]


def test_a_daemon_that_was_cut_off_during_two_failovers_reconciles_with_the_last(
    cluster: Cluster, here: Host
) -> None:
    there = elsewhere(cluster)
    _, uid = forgotten_claim(cluster, there)
    there.shared.is_cut = True
    for _ in range(2):
        cluster.server.fail_over()
        cluster.run_for(2)
    there.shared.is_cut = False

    cluster.run_for(2)

    assert wire.RunState.ENDING is there.executor.runs[uid].state


def test_nothing_of_a_failover_is_forgotten_where_the_replica_had_all(
    cluster: Cluster, here: Host
) -> None:
    running = here.submit("work")
    here.settle_down()
    cluster.server.fail_over()
    waiting = here.submit("work")
    cluster.run_for(RETURN + 2)

    assert {running: 1, waiting: 1} == lives(here)
    assert 1 == len(here.executor.starts[:1])
    assert [1] == [run.fence for run in here.runs(running)]


# Takeovers, and the server's clock --------------------------------------------------------


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_renewal_that_was_forgotten_lets_nobody_take_over_while_the_worker_lives(
    cluster: Cluster, here: Host, *, is_cut: bool
) -> None:
    there = elsewhere(cluster)
    here.shared.is_cut = True
    task_id = there.submit("work")
    there.settle_down()
    here.shared.is_cut = False
    uid = there.uid(task_id)
    cluster.server.part()
    cluster.run_for(LIMIT)  # the replica has the takeover of the claim as it began
    dies_at = there.kill_deadline(uid) + GRACE
    there.shared.is_cut = is_cut
    cluster.server.fail_over()

    if not is_cut:
        cluster.run_for(3 * LIMIT)
        assert [None] == outcomes(there, task_id)
        return
    while outcomes(here, task_id) == [None]:
        cluster.run_for(1, step=1)
    assert dies_at <= here.elapsed <= dies_at + BEYOND + 10


@pytest.mark.parametrize("step", [3_600.0, -3_600.0])
def test_a_step_of_the_servers_clock_costs_nobody_a_claim_or_a_lease(
    cluster: Cluster, here: Host, step: float
) -> None:
    there = elsewhere(cluster)
    here.shared.is_cut = True
    task_id = there.submit("work", liveness=Liveness.WORKER, lease_ttl_ms=60_000)
    there.settle_down()
    here.shared.is_cut = False
    cluster.run_for(1)
    cluster.server.ahead_ms += round(step * 1000)

    with structlog.testing.capture_logs() as logged:
        cluster.run_for(50)

    assert [None] == outcomes(there, task_id)
    assert {task_id: 1} == lives(here, there)
    stepped = [one["gap_ms"] for one in logged if one["event"] == "store.clock_stepped"]
    assert [step * 1000] * 2 == stepped


# Clients -----------------------------------------------------------------------------------


def claim_by_hand(host: Host) -> Claim | None:
    with host.store.transaction() as now:
        return host.store.claim_local("hand", owner=f"{LOCAL}me", output_dir="/o", now=now)


def test_a_claim_by_hand_waits_until_a_forgotten_one_must_be_over(
    cluster: Cluster, here: Host
) -> None:
    here.fresh_supervisor(concurrency={"hand": 0})
    here.restart()
    task_id = here.submit("work", queue="hand", lease_ttl_ms=30_000)
    cluster.server.part()
    forgotten = claim_by_hand(here)
    assert forgotten is not None
    cluster.server.fail_over()

    with here.store.transaction() as now:
        (answer,) = here.store.heartbeat([Beat(task_id=task_id, lock=forgotten.lock)], now=now)
    assert isinstance(answer, Refused)
    cluster.run_for(29)
    with pytest.raises(StoreUnavailable, match="try again then"):
        claim_by_hand(here)
    cluster.run_for(2)
    again = claim_by_hand(here)
    assert again is not None
    assert forgotten.fence < again.fence


def test_a_local_claim_whose_beats_were_forgotten_is_kept(cluster: Cluster, here: Host) -> None:
    here.fresh_supervisor(concurrency={"hand": 0})
    here.restart()
    task_id = here.submit("work", queue="hand", lease_ttl_ms=30_000)
    claim = claim_by_hand(here)
    assert claim is not None
    cluster.server.part()
    for _ in range(3):
        cluster.run_for(20)
        with here.store.transaction() as now:
            here.store.heartbeat([Beat(task_id=task_id, lock=claim.lock)], now=now)
    cluster.server.fail_over()
    cluster.run_for(10)

    with here.store.transaction() as now:
        (answer,) = here.store.heartbeat([Beat(task_id=task_id, lock=claim.lock)], now=now)

    assert isinstance(answer, Renewed)
    assert answer.lease_expires_at == StoreTime(now + 30_000)


def test_an_operators_verb_on_a_forgotten_claim_holds_and_its_worker_is_ended(
    cluster: Cluster, here: Host
) -> None:
    task_id, uid = forgotten_claim(cluster, here)
    cluster.server.fail_over()
    here.cancel(task_id)

    cluster.run_for(1)

    assert (TaskState.CANCELLED, []) == (here.state(task_id), here.runs(task_id))
    assert wire.RunState.ENDING is here.executor.runs[uid].state
