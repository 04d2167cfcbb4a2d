"""One task, accepted."""

from __future__ import annotations

from dispatcher.model import NewTask, Submitted
from dispatcher.store import statements
from dispatcher.store.engine import Engine
from dispatcher.store.values import of_limits, of_new_task, of_profile
from dispatcher.times import StoreTime


def submit(engine: Engine, task: NewTask, now: StoreTime) -> Submitted:
    """Do what `Store.submit` promises."""
    new = of_new_task(task, now)
    if rows := engine.rows(statements.SUBMIT, new):
        task_id = rows[0][0]
        if (values := of_limits(task, now)) is not None:
            engine.change(statements.SUBMIT_LIMITS, {"task_id": task_id, **values})
        if task.notify:
            engine.change(statements.SUBMIT_NOTIFY, {"task_id": task_id})
        if task.profile is not None:
            engine.change(statements.SUBMIT_PROFILE, of_profile(task_id, task))
        if task.payload is not None:
            values = {"task_id": task_id, "payload": task.payload}
            engine.change(statements.SUBMIT_PAYLOAD, values)
        return Submitted(task_id, created=True)
    ((task_id, command, payload),) = engine.rows(
        statements.TASK_WITH_KEY, {"queue": task.queue, "key": task.key}
    )
    same = {"command": new["command"] == command, "payload": task.payload == payload}
    differs = tuple(name for name in same if not same[name])
    return Submitted(task_id, created=False, differs=differs)
