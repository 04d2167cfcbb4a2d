"""What a run leaves for the next one of its task: checkpoint, question, answer, and its end."""

import json

import pytest

from dispatcher.errors import StoreRefused
from dispatcher.model import Declared, Outcome, TaskState
from dispatcher.operations.answers import inbox
from dispatcher.words import Accepted, Beat, Declaration, Refused, Renewed
from dispatcher.worker_api import HoldKind
from tests.contract.helpers import NODE, NOW, OneByOne, later


def test_the_next_run_finds_the_last_checkpoint_and_how_the_run_before_ended(
    store: OneByOne,
) -> None:
    claim = store.claimed()
    assert (None, None, None) == (claim.previous, claim.checkpoint, claim.answer)
    for checkpoint in ('{"step": 1}', None, '{"step": 2}'):
        beat = Beat(task_id=claim.task_id, lock=claim.lock, checkpoint=checkpoint)
        assert [Renewed(later(60_000))] == store.heartbeat([beat], now=NOW)
    wrong = Beat(task_id=claim.task_id, lock="another", checkpoint='{"step": 9}')
    (refused,) = store.heartbeat([wrong], now=NOW)
    assert isinstance(refused, Refused)
    facts = {"outcome": Outcome.FAILED, "state": TaskState.READY, "run_reason": "exit code 3"}
    store.end(claim, exit_code=3, **facts)

    (again,) = store.take("own")

    assert '{"step": 2}' == again.checkpoint
    end = {"outcome": "failed", "exit_code": 3, "signal": None, "reason": "exit code 3"}
    assert {**end, "output": claim.output_path} == json.loads(again.previous or "")
    assert Outcome.FAILED is again.last_outcome


def test_the_output_of_a_run_on_another_node_is_not_named(store: OneByOne) -> None:
    claim = store.claimed(node="elsewhere")
    store.end(claim, outcome=Outcome.FAILED, state=TaskState.READY)

    (again,) = store.take("own", node=NODE)

    assert json.loads(again.previous or "")["output"] is None


def asked(store: OneByOne, question: str, kind: HoldKind | None = None, queue: str = "own") -> int:
    """Return a task that is held with a question."""
    (claim,) = store.take(queue) or [store.claimed(queue=queue)]
    declaration = Declaration(
        task_id=claim.task_id,
        lock=claim.lock,
        word=Declared.HOLD,
        reason="a person must decide",
        question=question,
        kind=kind,
    )
    assert Accepted() == store.declare(declaration, now=NOW)
    assert Accepted() == store.declare(declaration, now=NOW), "a repetition"
    store.end(claim, outcome=Outcome.HELD, state=TaskState.HELD)
    return claim.task_id


def test_an_answer_reaches_the_next_run_with_its_question_and_ends_with_the_next_one(
    store: OneByOne,
) -> None:
    task_id = asked(store, "Which?", HoldKind.NEEDS_INPUT)
    left = store.handovers([task_id])[task_id]
    assert ("Which?", HoldKind.NEEDS_INPUT, None) == (left.question, left.kind, left.answer)

    store.raw.act_as("user:7:ann")
    store.answer(task_id, "the first", now=later(1))
    store.release(task_id, now=later(1))
    (claim,) = store.take("own")

    found = json.loads(claim.answer or "")
    assert {"question": "Which?", "kind": "needs_input", "answer": "the first"} == {
        name: found[name] for name in ("question", "kind", "answer")
    }
    assert "user:7:ann" == found["by"]
    store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY)

    assert task_id == asked(store, "And now?")
    left = store.handovers([task_id])[task_id]
    assert ("And now?", None, None) == (left.question, left.kind, left.answer)
    assert "answer" in [event.kind for event in store.task_events(task_id)]


def test_what_a_task_left_is_deleted_with_it(store: OneByOne) -> None:
    task_id = asked(store, "Which?")
    store.cancel(task_id, "no", now=NOW)

    store.prune(before=later(1), limit=100)

    assert {} == store.handovers([task_id])


def test_an_answer_with_a_nul_is_refused(store: OneByOne) -> None:
    task_id = asked(store, "Which?")

    with pytest.raises(StoreRefused, match="NUL"):
        store.answer(task_id, "a\0b", now=NOW)


def test_a_task_with_a_question_is_found_however_many_others_are_held(store: OneByOne) -> None:
    first, second = asked(store, "Which?"), asked(store, "And?", queue="elsewhere")
    answered = asked(store, "Why?")
    store.answer(answered, "because", now=NOW)
    others = [store.new(queue="own", delay_ms=1) for _ in range(3)]
    for one in others:
        store.hold(one, "later", now=NOW)

    with store.raw.snapshot():
        assert [second, first] == [task.id for task in store.raw.asking(limit=9)]
        assert [first] == [task.id for task in store.raw.asking(queue="own", limit=9)]
        assert [second] == [task.id for task in store.raw.asking(limit=1)]
    found = inbox(store.raw, queue="own", limit=2)
    assert [first, others[-1]] == [one.task.id for one in found]


@pytest.mark.parametrize("verb", ["release", "retry"])
def test_a_question_is_over_once_its_task_goes_on_without_an_answer(
    store: OneByOne, verb: str
) -> None:
    task_id = asked(store, "Which?")

    getattr(store, verb)(task_id, now=NOW)
    store.hold(task_id, "later", now=NOW)

    assert store.handovers([task_id])[task_id].question is None
    with store.raw.snapshot():
        assert [] == store.raw.asking(limit=9)
