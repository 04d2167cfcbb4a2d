"""What operators say of tasks: done at once, or kept with a running one until it is settled.

A word that changes nothing, as the run that it is about has succeeded, leaves nothing either: no
intent, and no ending for what the worker still does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dispatcher.execution import OpenRun
from dispatcher.model import FINISHED, Intent, Outcome, Pruned, TaskState
from dispatcher.store import statements
from dispatcher.store.claims import secret
from dispatcher.store.engine import Engine
from dispatcher.store.rows import open_run_from
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid

if TYPE_CHECKING:
    from dispatcher.policy import RetryPolicy

#: States that an operator's `retry` leaves.
RETRIABLE: Final = frozenset({TaskState.FAILED, TaskState.CANCELLED, TaskState.HELD})


def cancel(engine: Engine, task_id: int, reason: str, now: StoreTime) -> TaskState | None:
    """Do what `Store.cancel` promises."""
    state, run = _find(engine, task_id)
    if run is not None:
        _end(engine, run, Intent.CANCEL, Outcome.CANCELLED, reason)
    elif state not in FINISHED:
        engine.change(statements.CANCEL, {"id": task_id, "reason": reason, "now": now})
    return state


def hold(engine: Engine, task_id: int, reason: str, now: StoreTime) -> TaskState | None:
    """Do what `Store.hold` promises."""
    state, run = _find(engine, task_id)
    if run is not None:
        if not _can_be_held(run, now):
            return state
        _end(engine, run, Intent.HOLD, Outcome.HELD, reason)
    elif state not in FINISHED | {TaskState.HELD}:
        engine.change(statements.HOLD, {"id": task_id, "reason": reason})
    return state


def retry(engine: Engine, task_id: int, now: StoreTime) -> TaskState | None:
    """Do what `Store.retry` promises."""
    state, run = _find(engine, task_id)
    if state in RETRIABLE:
        engine.change(statements.RETRY, {"id": task_id, "now": now})
    elif run is not None and run.is_ending and _outcome(run) is not Outcome.SUCCEEDED:
        _intend(engine, run, Intent.RETRY, "retried by operator")
    return state


def release(engine: Engine, task_id: int, policy: RetryPolicy, now: StoreTime) -> TaskState | None:
    """Do what `Store.release` promises."""
    state, run = _find(engine, task_id)
    if state is TaskState.HELD:
        engine.change(statements.RELEASE, {"id": task_id, "now": now})
    elif run is not None and run.is_ending and _can_be_released(run, policy, now):
        _intend(engine, run, Intent.RELEASE, "released by operator")
    return state


def prune(engine: Engine, before: StoreTime, limit: int, states: Collection[TaskState]) -> Pruned:
    """Do what `Store.prune` promises."""
    tasks, left = 0, limit
    paths: list[str] = []
    for task_id, payload in _old(engine, before, limit, states):
        if payload >= left and tasks:
            return Pruned(tasks, tuple(paths), more=True)
        runs = engine.rows(statements.OLD_RUNS, {"task_id": task_id, "limit": left})
        paths += [path for _, path in runs]
        if len(runs) >= left:  # no room for the task itself, and it may have more
            engine.change_each(statements.DELETE_RUN, [{"id": run_id} for run_id, _ in runs])
            return Pruned(tasks, tuple(paths), more=True)
        engine.change(statements.DELETE, {"id": task_id})
        tasks += 1
        left = max(0, left - len(runs) - payload - 1)
    return Pruned(tasks, tuple(paths), more=tasks == limit)


def prunable(engine: Engine, before: StoreTime, states: Collection[TaskState]) -> int:
    """Do what `Store.prunable` promises."""
    return sum(
        engine.rows(statements.PRUNABLE, {"state": state.value, "before": before})[0][0]
        for state in states
    )


def begin_ending(engine: Engine, uid: RunUid, ending: Outcome, reason: str) -> bool:
    """Do what `Store.begin_ending` promises."""
    values = {"uid": uid, "ending": ending.value, "reason": reason, "lock": secret()}
    return engine.change(statements.BEGIN_ENDING, values) > 0


def _find(engine: Engine, task_id: int) -> tuple[TaskState | None, OpenRun | None]:
    """Return a task's state, and its run while it runs; nobody else changes it meanwhile."""
    rows = engine.rows(statements.STATE + engine.dialect.lock_row, {"id": task_id})
    if not rows:
        return None, None
    state, uid = rows[0]
    runs = engine.rows(statements.OPEN_RUN, {"uid": uid})
    return TaskState(state), open_run_from(runs[0]) if runs else None


def _outcome(run: OpenRun) -> Outcome:
    """Return how a run has ended or ends, as far as anybody knows."""
    from dispatcher.policy import verdict  # noqa: PLC0415 - no submit needs it

    return verdict(run, None).outcome


def _can_be_held(run: OpenRun, now: StoreTime) -> bool:
    """Whether a run's task may still wait: its total time-out is not over."""
    from dispatcher.policy import RetryPolicy, next_state  # noqa: PLC0415 - no submit needs it

    held = replace(run, intent=Intent.HOLD)  # which goes by no policy
    return next_state(held, RetryPolicy(), now=now) is TaskState.HELD


def _can_be_released(run: OpenRun, policy: RetryPolicy, now: StoreTime) -> bool:
    """Whether a run's task would be held once it is settled, and ready if it is released."""
    from dispatcher.policy import next_state  # noqa: PLC0415 - no submit needs it

    held = next_state(run, policy, now=now) is TaskState.HELD
    released = replace(run, intent=Intent.RELEASE)
    return held and next_state(released, policy, now=now) is TaskState.READY


def _end(engine: Engine, run: OpenRun, intent: Intent, ending: Outcome, reason: str) -> None:
    """Keep where a running task goes, and begin to end its run; what has exited keeps its code."""
    if _outcome(run) is Outcome.SUCCEEDED:
        return
    _intend(engine, run, intent, reason)
    if not run.leader_exited:
        begin_ending(engine, run.run_uid, ending, reason)


def _intend(engine: Engine, run: OpenRun, intent: Intent, reason: str) -> None:
    values = {"uid": run.run_uid, "intent": intent.value, "reason": reason}
    engine.change(statements.INTEND, values)


def _old(
    engine: Engine, before: StoreTime, limit: int, states: Collection[TaskState]
) -> Iterator[tuple[int, int]]:
    """Yield at most `limit` tasks that finished before a time, of each state the oldest first."""
    for state in sorted(states):
        values = {"state": state.value, "before": before, "limit": limit}
        rows = engine.rows(statements.OLD, values)
        yield from rows
        limit -= len(rows)
        if not limit:
            return
