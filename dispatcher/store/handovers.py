"""What the next run of a task finds of its last one, and of what that left."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from dispatcher.handover import Handover, Previous, answered
from dispatcher.model import Outcome
from dispatcher.store.engine import Engine, Values
from dispatcher.store.rows import value_from
from dispatcher.store.statements import handovers as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.times import StoreTime
from dispatcher.words import Declaration

_OUTCOMES: Final = frozenset(Outcome)


def previous(engine: Engine, tasks: Sequence[Values], owner: str) -> dict[int, Previous]:
    """Return what the next runs of tasks find; an output is named if it is on the owner's host."""
    found = {}
    for task_id, outcome, exit_code, signal, reason, node, output, *left in engine.rows(
        sql.PREVIOUS, {"given": rows_of(tasks)}
    ):
        checkpoint, question, kind, answer, by = left
        run = None
        if outcome is not None:
            end = {"outcome": outcome, "exit_code": exit_code, "signal": signal, "reason": reason}
            run = _json({**end, "output": output if node == owner else None})
        answer = None if answer is None else answered(question, kind, answer, by)
        found[task_id] = Previous(
            outcome=Outcome(outcome) if outcome in _OUTCOMES else None,
            run=run,
            checkpoint=checkpoint if isinstance(checkpoint, str) else None,
            answer=answer,
        )
    return found


def handovers(engine: Engine, task_ids: Iterable[int]) -> dict[int, Handover]:
    """Return what the last runs of tasks left, for those that left anything."""
    rows = rows_of([{"task_id": task_id} for task_id in task_ids])
    found = engine.rows(sql.HANDOVERS, {"given": rows})
    return {one.task_id: one for one in (value_from(Handover, row) for row in found)}


def keep_checkpoints(engine: Engine, given: Iterable[tuple[int, str]], now: StoreTime) -> None:
    """Keep checkpoints, which are JSON, by task."""
    rows = [{"task_id": task_id, "checkpoint": text} for task_id, text in given]
    engine.change(sql.CHECKPOINT, {"given": rows_of(rows), "now": now})


def ask(engine: Engine, declaration: Declaration, now: StoreTime) -> None:
    """Keep the question of a declaration, in the place of an earlier one and its answer."""
    kind = None if declaration.kind is None else declaration.kind.value
    values = {"task_id": declaration.task_id, "question": declaration.question, "kind": kind}
    engine.change(sql.ASK, {**values, "now": now})


def ask_no_more(engine: Engine, task_id: int) -> None:
    """Forget the question of a task, unless it was answered."""
    engine.later(sql.ASK_NO_MORE, {"task_id": task_id})


def answer(engine: Engine, task_id: int, text: str, *, by: str, now: StoreTime) -> None:
    """Keep a person's answer, in the place of an earlier one."""
    values = {"task_id": task_id, "answer": text, "answered_by": by, "now": now}
    engine.change(sql.ANSWER, values)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
