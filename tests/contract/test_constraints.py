"""Rows that must not exist cannot be written by any writer."""

import pytest

from dispatcher.errors import StoreRefused
from dispatcher.model import FINISHED, MOVES, Liveness, Outcome, TaskState
from tests.contract.helpers import OneByOne

ANY_READY = "UPDATE tasks SET {} WHERE state = 'ready'"
ANY_RUNNING = "UPDATE tasks SET {} WHERE state = 'running'"
ANY_RUN = "UPDATE runs SET {}"


def change(store: OneByOne, statement: str) -> None:
    """Execute one statement in a transaction of its own."""
    with store.raw.transaction():
        store.sql(statement)


def test_r57_no_claim_without_running(store: OneByOne) -> None:
    store.new()

    with pytest.raises(StoreRefused):
        change(store, ANY_READY.format("run_uid = 'x'"))


def test_r57_no_running_without_its_claim(store: OneByOne) -> None:
    store.claimed()

    with pytest.raises(StoreRefused):
        change(store, ANY_RUNNING.format("run_uid = NULL"))


@pytest.mark.parametrize("missing", ["lock", "lease_expires_at", "lease_ttl_ms", "node"])
def test_r57_no_claim_without_its_lock_and_lease(store: OneByOne, missing: str) -> None:
    store.claimed()

    with pytest.raises(StoreRefused):
        change(store, ANY_RUN.format(f"{missing} = NULL"))


def test_r57_no_task_has_two_open_runs(store: OneByOne) -> None:
    claim = store.claimed()
    store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY)
    store.take("own")

    with pytest.raises(StoreRefused):
        change(store, ANY_RUN.format("outcome = NULL, ended_at = NULL, reason = NULL"))


@pytest.mark.parametrize("state", [s for s in TaskState if s is not TaskState.RUNNING])
def test_r57_no_other_state_keeps_a_claim(store: OneByOne, state: TaskState) -> None:
    store.claimed()

    with pytest.raises(StoreRefused):
        change(store, ANY_RUNNING.format(f"state = '{state}', finished_at = NULL"))
    with pytest.raises(StoreRefused):
        change(store, ANY_RUNNING.format(f"state = '{state}', finished_at = 1"))


@pytest.mark.parametrize(
    "wrong",
    [
        "finished_at = 1",
        "state = 'succeeded'",
        "state = 'running'",
        "state = 'asleep'",
        "state = 'READY'",
        "state = ''",
        "queue = ''",
        "liveness = 'hope'",
        "attempts_used = -1",
        "max_attempts = 0",
        "deferrals = -1",
        "orphans = -1",
        "fence = -1",
        "lease_ttl_ms = 0",
    ],
)
def test_no_ready_task_is_like_this(store: OneByOne, wrong: str) -> None:
    store.new()

    with pytest.raises(StoreRefused):
        change(store, ANY_READY.format(wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        "ending = 'lost'",
        "ending_reason = 'x'",
        "ending = 'tired', ending_reason = 'x'",
        "progress = 1.5",
        "progress = -0.1",
    ],
)
def test_no_claim_is_like_this(store: OneByOne, wrong: str) -> None:
    store.claimed()

    with pytest.raises(StoreRefused):
        change(store, ANY_RUN.format(wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        "outcome = 'succeeded', reason = 'x'",
        "outcome = 'succeeded', ended_at = 1",
        "ended_at = 1",
        "reason = 'x'",
        "outcome = 'tired', reason = 'x', ended_at = 1",
        "declared = 'maybe'",
        "attempt = 0",
        "fence = 0",
        "task_id = 999",
    ],
)
def test_no_open_run_is_like_this(store: OneByOne, wrong: str) -> None:
    store.claimed()

    with pytest.raises(StoreRefused):
        change(store, ANY_RUN.format(wrong))


@pytest.mark.parametrize("shared", ["uid = 'x'", "task_id = 1, fence = 1"])
def test_no_two_runs_share_a_uid_or_a_fence_of_their_task(store: OneByOne, shared: str) -> None:
    store.claimed()
    store.claimed()

    with pytest.raises(StoreRefused):
        change(store, ANY_RUN.format(shared))


@pytest.mark.parametrize("state", [s for s in TaskState if s is not TaskState.RUNNING])
def test_a_task_has_a_time_of_finishing_exactly_when_it_is_finished(
    store: OneByOne, state: TaskState
) -> None:
    store.finished()
    wrong = "NULL" if state in FINISHED else "1"

    with pytest.raises(StoreRefused):
        change(store, f"UPDATE tasks SET state = '{state}', finished_at = {wrong}")


@pytest.mark.parametrize("state", MOVES)
def test_every_state_of_the_model_has_its_row(store: OneByOne, state: TaskState) -> None:
    claim = store.claimed()
    if state is not TaskState.RUNNING:
        store.end(claim)
        finished = "1" if state.value in ("succeeded", "failed", "cancelled") else "NULL"
        change(store, f"UPDATE tasks SET state = '{state}', finished_at = {finished}")

    assert {claim.task_id: state} == store.states()


def test_the_moves_name_every_state() -> None:
    assert set(TaskState) == set(MOVES) == {*MOVES, *(to for tos in MOVES.values() for to in tos)}


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_of_the_model_may_end_a_run(store: OneByOne, outcome: Outcome) -> None:
    claim = store.claimed()

    assert store.begin_ending(claim.run_uid, outcome, "x", now=1)
    assert store.end(claim, outcome=outcome)


@pytest.mark.parametrize("liveness", Liveness)
def test_every_liveness_of_the_model_is_accepted(store: OneByOne, liveness: Liveness) -> None:
    assert liveness is store.task(store.new(liveness=liveness)).liveness


@pytest.mark.parametrize("declared", ["succeed", "fail", "defer", "hold"])
def test_every_declaration_is_accepted(store: OneByOne, declared: str) -> None:
    store.claimed()

    change(store, ANY_RUN.format(f"declared = '{declared}'"))


def test_a_settle_to_an_impossible_state_is_refused_whole(store: OneByOne) -> None:
    claim = store.claimed()

    with pytest.raises(StoreRefused):
        store.end(claim, state=TaskState.RUNNING)

    assert None is not store.open_run(claim.run_uid)
