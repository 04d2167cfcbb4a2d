"""The table of moves is `model.MOVES`, and each move guards itself."""

import pytest

from dispatcher.errors import StoreRefused
from dispatcher.model import FINISHED, MOVES, TaskState
from dispatcher.store.statements import moves
from dispatcher.store.statements.given import rows_of
from tests.contract.helpers import NOW, OneByOne, later

#: An edit moves between these two.
EDITS = {(TaskState.SCHEDULED, TaskState.READY), (TaskState.READY, TaskState.SCHEDULED)}


def test_the_moves_and_the_edit_are_those_of_the_model() -> None:
    made = {(one, to) for move in moves.MOVES for one in move.before for to in move.after}

    legal = {(one, to) for one, afters in MOVES.items() for to in afters}
    # A hold of a held task gives it another reason.
    assert legal == (made | EDITS) - {(TaskState.HELD, TaskState.HELD)}


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("move", moves.MOVES, ids=lambda one: "-".join(sorted(one.after)))
def test_a_move_from_any_other_state_writes_nothing(
    store: OneByOne, move: moves.Move, state: TaskState
) -> None:
    if state in move.before:
        return
    claim = store.claimed()
    if state is not TaskState.RUNNING:
        store.end(claim, state=state, run_at=later(9))
    before = store.task(claim.task_id)
    facts = {
        "id": claim.task_id,
        "state": "held",
        "reason": "moved",
        "uid": claim.run_uid,
        "fence": 9,
        "lease_ttl_ms": 1,
    }

    with store.raw.transaction():
        values = {"given": rows_of([facts]), "now": NOW}
        assert 0 == store.raw.engine.change(move.statement, values)

    assert before == store.task(claim.task_id)


@pytest.mark.parametrize("queue_ms", [None, 5, 20])
@pytest.mark.parametrize("total_ms", [None, 10])
@pytest.mark.parametrize("state", sorted({*TaskState} - {TaskState.RUNNING}))
def test_a_task_fails_by_the_first_of_its_times_that_counts_in_its_state(
    store: OneByOne, state: TaskState, total_ms: int | None, queue_ms: int | None
) -> None:
    claim = store.claimed(total_timeout_ms=total_ms, queue_timeout_ms=queue_ms)

    store.end(claim, state=state, run_at=later(9), now=later(2))

    times = [] if total_ms is None else [later(total_ms)]
    if state is TaskState.READY and queue_ms is not None:
        times.append(later(2 + queue_ms))
    task = store.task(claim.task_id)
    assert (None if state in FINISHED else min(times, default=None)) == task.fails_at
    assert (later(2) if state in FINISHED else None) == task.finished_at


def test_r57_no_move_makes_a_row_that_the_schema_refuses(store: OneByOne) -> None:
    task_id = store.new()

    with pytest.raises(StoreRefused), store.raw.transaction():
        store.sql("UPDATE tasks SET state = 'running' WHERE id = :id", {"id": task_id})
