"""The writes that a lock guards: asked and done in one statement; why not, only afterwards."""

from __future__ import annotations

from dataclasses import replace

from dispatcher.model import Declared, TaskState
from dispatcher.store import statements
from dispatcher.store.engine import Engine
from dispatcher.store.values import of_declaration
from dispatcher.times import StoreTime
from dispatcher.words import Accepted, Beat, Declaration, Note, Refused, Renewed
from dispatcher.worker_api import WorkerError


def heartbeat(engine: Engine, beat: Beat, now: StoreTime) -> Renewed | Refused:
    """Do what `Store.heartbeat` promises."""
    values = {
        "task_id": beat.task_id,
        "lock": beat.lock,
        "progress": beat.progress,
        "note": beat.note,
        "now": now,
    }
    if rows := engine.rows(statements.HEARTBEAT, values):
        return Renewed(rows[0][0])
    return _why_refused(engine, beat.task_id, beat.lock)


def note(engine: Engine, said: Note, now: StoreTime) -> Accepted | Refused:
    """Do what `Store.note` promises."""
    values = {"task_id": said.task_id, "lock": said.lock, "note": said.note, "now": now}
    if engine.change(statements.NOTE, values):
        return Accepted()
    return _why_refused(engine, said.task_id, said.lock)


def declare(engine: Engine, declaration: Declaration, now: StoreTime) -> Accepted | Refused:
    """Do what `Store.declare` promises."""
    values = of_declaration(declaration, now)
    if engine.change(statements.DECLARE, values):
        return Accepted()
    said = engine.rows(statements.DECLARED, values)
    if not said:
        return _why_refused(engine, declaration.task_id, declaration.lock)
    word, reason, delay_ms, retry, result = said[0]
    before = replace(
        declaration,
        word=Declared(word),
        reason=reason,
        delay_ms=delay_ms,
        retry=bool(retry),
        result=result,
    )
    if before == declaration:
        return Accepted()
    how_it_stands = _why_refused(engine, declaration.task_id, declaration.lock)
    return replace(how_it_stands, error=WorkerError.ALREADY_DECLARED)


def _why_refused(engine: Engine, task_id: int, lock: str) -> Refused:
    rows = engine.rows(statements.PRESENTED, {"task_id": task_id, "lock": lock})
    if not rows:
        return Refused(WorkerError.UNKNOWN_TASK)
    state, current_uid, presented_uid, attempt = rows[0]
    if state != TaskState.RUNNING:
        return Refused(WorkerError.NOT_RUNNING, TaskState(state), attempt)
    earlier = presented_uid is not None and presented_uid != current_uid
    error = WorkerError.SUPERSEDED if earlier else WorkerError.NOT_OWNER
    return Refused(error, TaskState.RUNNING, attempt)
