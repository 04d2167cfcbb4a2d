"""The parents of new tasks, for which these wait: see `dependencies` for what follows."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

from msgspec import Struct

from dispatcher.dependency import DependencyState, ParentFailure, TaskKey
from dispatcher.model import FINISHED, TaskState
from dispatcher.new_task import NO_WAIT, NewTask, Wait
from dispatcher.store.dependencies import judged, why
from dispatcher.store.engine import Engine
from dispatcher.store.rows import state_from
from dispatcher.store.statements import dependencies as sql
from dispatcher.store.statements.given import rows_of

_OPEN, _MET, _BROKEN = DependencyState.OPEN, DependencyState.MET, DependencyState.BROKEN


class KnownParents(Struct, frozen=True, kw_only=True):
    """The parents of new tasks that exist, locked."""

    states: Mapping[int, TaskState]
    ids: Mapping[TaskKey, int]

    def id_of(self, parent: int | TaskKey) -> int | None:
        """Return a parent's id; None if there is no such task."""
        if isinstance(parent, TaskKey):
            return self.ids.get(parent)
        return parent if parent in self.states else None

    def missing(self, tasks: Iterable[NewTask]) -> list[int | TaskKey]:
        """Return the parents that are neither known nor among the tasks themselves."""
        own = {TaskKey(task.queue, task.key) for task in tasks if task.key is not None}
        return [
            parent
            for task in tasks
            for parent in (*task.after, *task.after_any)
            if parent not in own and self.id_of(parent) is None
        ]


NO_PARENTS: Final = KnownParents(states={}, ids={})


def of_tasks(engine: Engine, tasks: Sequence[NewTask], *, locks: bool = True) -> KnownParents:
    """Return the parents of new tasks, and lock them: none finishes before these wait for it."""
    wanted = {parent for task in tasks for parent in (*task.after, *task.after_any)}
    if not wanted:
        return NO_PARENTS
    rows = [
        {"queue": one.queue, "key": one.key} if isinstance(one, TaskKey) else {"id": one}
        for one in wanted
    ]
    states, ids = {}, {}
    for task_id, queue, key, state in engine.rows(
        sql.PARENTS if locks else sql.KNOWN, {"given": rows_of(rows)}
    ):
        states[task_id] = state_from(state)
        if key is not None:
            ids[TaskKey(queue, key)] = task_id
    return KnownParents(states=states, ids=ids)


def wait_of(task: NewTask, known: KnownParents, missing: Collection[int | TaskKey]) -> Wait:
    """Return for what a new task waits; parents that are not `missing` exist, or come with it."""
    if not (task.after or task.after_any):
        return NO_WAIT
    broken = None
    open_ones = 0
    for parent, any_outcome in _named(task, known).items():
        if parent in missing:
            broken = broken or f"{_text(parent)} does not exist"
        elif isinstance(parent, TaskKey) or known.states[parent] not in FINISHED:
            open_ones += 1
        elif judged(known.states[parent], any_outcome, task.on_parent_failure) is _BROKEN:
            broken = broken or why(parent, known.states[parent])
    runs = task.on_parent_failure is ParentFailure.RUN
    return Wait(open_ones, None if runs else broken)


def link(
    engine: Engine,
    created: Mapping[int, NewTask],
    known: KnownParents,
    missing: Collection[int | TaskKey],
) -> bool:
    """Add the dependencies of tasks just created, given by id; they may be among each other's.

    Returns whether one waits for a parent that may have finished: then `resolve` has to find out.
    """
    ids = {**known.ids}
    ids |= {TaskKey(one.queue, one.key): task_id for task_id, one in created.items() if one.key}
    named = {task_id: _named(task, known) for task_id, task in created.items()}
    late = _made_meanwhile(engine, {*chain(*named.values())} - ids.keys() - {*missing})
    ids |= late
    rows = {}
    for task_id, task in created.items():
        for parent, any_outcome in named[task_id].items():
            parent_id = ids.get(parent) if isinstance(parent, TaskKey) else parent
            if parent_id is None:
                continue
            state = _OPEN
            if parent_id in known.states:
                state = judged(known.states[parent_id], any_outcome, task.on_parent_failure)
            elif parent in missing:
                state = _MET if task.on_parent_failure is ParentFailure.RUN else _BROKEN
            row = {"task_id": task_id, "parent_id": parent_id, "state": state.value}
            rows[task_id, parent_id] = {**row, "any_outcome": any_outcome}
    if rows:
        engine.change(sql.LINK, {"given": rows_of(rows.values())})
        awaited = {one for (_, one), row in rows.items() if row["state"] == _OPEN.value}
        engine.change(sql.AWAIT, {"given": rows_of([{"id": one} for one in sorted(awaited)])})
    return bool(late)


def _made_meanwhile(engine: Engine, parents: Iterable[int | TaskKey]) -> dict[TaskKey, int]:
    """Return the ids of parents that are lines of this submit, but that another one has made.

    It was waited for, by the lock of their keys. They count as unfinished: if one is not, `resolve`
    finds it.
    """
    keys = [{"queue": one.queue, "key": one.key} for one in parents if isinstance(one, TaskKey)]
    if not keys:
        return {}
    found = engine.rows(sql.KNOWN, {"given": rows_of(keys)})
    return {TaskKey(queue, key): task_id for task_id, queue, key, _ in found}


def _named(task: NewTask, known: KnownParents) -> dict[int | TaskKey, bool]:
    """Return a task's parents, by their ids if they are known, and whether each need only finish.

    One that is named twice, by its id and by its key, is one parent.
    """
    after_any, after = (
        [known.id_of(one) or one for one in parents] for parents in (task.after_any, task.after)
    )
    return dict.fromkeys(after_any, True) | dict.fromkeys(after, False)


def _text(parent: int | TaskKey) -> str:
    return f"its parent, {parent}," if isinstance(parent, TaskKey) else f"its parent {parent}"
