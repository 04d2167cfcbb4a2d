"""Dependencies of tasks on others: at their submit, and once a parent has finished.

The end of a task is passed on to those that wait for it by `resolve`, in bounded steps: one task
may be the parent of very many.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

import msgspec
from msgspec import Struct

from dispatcher.dependency import Dependency, DependencyState, ParentFailure, TaskKey
from dispatcher.model import FINISHED, TaskState
from dispatcher.new_task import NO_WAIT, NewTask, Wait
from dispatcher.store import moves
from dispatcher.store.engine import Engine, Values
from dispatcher.store.rows import dependency_from, state_from
from dispatcher.store.statements import dependencies as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.times import StoreTime

#: Finished tasks that one step of `resolve` looks at.
_PARENTS: Final = 100

#: Bytes of the results of its parents that a run gets: they share a line with its payload.
_MOST_RESULTS: Final = 512 * 1024

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


def parents_of(engine: Engine, tasks: Sequence[NewTask], *, locks: bool = True) -> KnownParents:
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
        elif _state(known.states[parent], any_outcome, task.on_parent_failure) is _BROKEN:
            broken = broken or _why(parent, known.states[parent])
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
                state = _state(known.states[parent_id], any_outcome, task.on_parent_failure)
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


def resolve(engine: Engine, *, limit: int, who: str, now: StoreTime) -> tuple[int, bool]:
    """Pass the end of tasks on to those that wait for them.

    Returns how many dependencies ended, and whether there may be more. A task is `ready`, or
    `scheduled`, once all its parents have succeeded, or finished where that is enough; once one has
    not, it is held or cancelled, as its submit said.
    """
    ended = engine.rows(sql.ENDED, {"limit": _PARENTS})
    if not ended:
        return 0, False
    parents = rows_of([{"id": parent_id} for parent_id, _ in ended])
    found = engine.rows(sql.OPEN, {"given": parents, "limit": limit})
    decided, broken = [], {}
    for task_id, parent_id, any_outcome, parent_state, rule in found:
        state = _state(state_from(parent_state), bool(any_outcome), _rule(rule))
        decided.append(_becomes(task_id, parent_id, _OPEN, state))
        if state is _BROKEN:
            broken[task_id] = _broken(task_id, _rule(rule), parent_id, state_from(parent_state))
    if decided:
        engine.change(sql.DECIDE, {"given": rows_of(decided)})
        children: list[Values] = [{"id": one} for one in {row["task_id"] for row in decided}]
        engine.change(sql.COUNT, {"given": rows_of(children)})
        moves.make(engine, moves.BREAK, list(broken.values()), who=who, now=now)
        moves.make(engine, moves.UNBLOCK, children, who=who, now=now)
    done = engine.change(sql.AWAITED_NO_MORE, {"given": parents})
    # A task that is cancelled now may be a parent itself. What others have locked is no reason to
    # look again at once.
    cancelled = any(row["state"] == TaskState.CANCELLED.value for row in broken.values())
    is_full = len(ended) == _PARENTS or len(found) == limit
    return len(decided), cancelled or (is_full and bool(decided or done))


def reopen(engine: Engine, parent_id: int, *, who: str, now: StoreTime) -> None:
    """Let the tasks wait for a parent again that is retried, unless they run or have succeeded."""
    found = [task_id for (task_id,) in engine.rows(sql.BROKEN, {"id": parent_id})]
    if not found:
        return
    children: list[Values] = [{"id": task_id} for task_id in found]
    again = [_becomes(task_id, parent_id, _BROKEN, _OPEN) for task_id in found]
    engine.change(sql.DECIDE, {"given": rows_of(again)})
    engine.change(sql.COUNT, {"given": rows_of(children)})
    engine.change(sql.AWAIT, {"given": rows_of([{"id": parent_id}])})
    rows = [{"id": one["id"], "reason": f"its parent {parent_id} is retried"} for one in children]
    moves.make(engine, moves.REBLOCK, rows, who=who, now=now)


def results(engine: Engine, task_ids: Iterable[int]) -> dict[int, str]:
    """Return, by task, its parents as JSON: id, key, state, outcome of the last run, and result.

    A result beyond `_MOST_RESULTS` of a task is `omitted`: its parent has it.
    """
    rows = rows_of([{"task_id": one} for one in task_ids])
    found: dict[int, list[dict[str, object]]] = {}
    left: dict[int, int] = {}
    for task_id, parent_id, key, state, outcome, result in engine.rows(
        sql.RESULTS, {"given": rows}
    ):
        parent = {"id": parent_id, "key": key, "state": state, "outcome": outcome}
        size = len(str(result or "").encode())
        if size > left.setdefault(task_id, _MOST_RESULTS):
            parent |= {"result": None, "omitted": True}
        else:
            parent["result"] = _raw(result)
            left[task_id] -= size
        found.setdefault(task_id, []).append(parent)
    return {task_id: msgspec.json.encode(some).decode() for task_id, some in found.items()}


def parents(engine: Engine, task_ids: Iterable[int], limit: int) -> list[Dependency]:
    """Return dependencies of tasks on their parents, lowest ids first."""
    rows = rows_of([{"task_id": task_id} for task_id in task_ids])
    found = engine.rows(sql.PARENTS_OF, {"given": rows, "limit": limit})
    return [dependency_from(row) for row in found]


def children(engine: Engine, task_id: int, limit: int) -> list[Dependency]:
    """Return dependencies of other tasks on one, lowest ids first."""
    found = engine.rows(sql.CHILDREN_OF, {"id": task_id, "limit": limit})
    return [dependency_from(row) for row in found]


def waive(engine: Engine, task_id: int) -> None:
    """Let a task no longer wait for its parents."""
    engine.change(sql.WAIVE, {"id": task_id})


def waiting_again(engine: Engine, task_ids: Iterable[int]) -> list[int]:
    """Return the tasks that may wait again for these once they are retried."""
    rows = rows_of([{"id": task_id} for task_id in task_ids])
    return [child for (child,) in engine.rows(sql.BROKEN_OF, {"given": rows})]


def _becomes(
    task_id: int, parent_id: int, before: DependencyState, after: DependencyState
) -> dict[str, object]:
    """Return the row of `DECIDE` by which a dependency changes."""
    row = {"task_id": task_id, "parent_id": parent_id}
    return {**row, "before": before.value, "state": after.value}


def _broken(
    task_id: int, rule: ParentFailure | None, parent_id: int, parent: TaskState
) -> dict[str, object]:
    """Return the row of `BREAK` of a task one of whose parents did not succeed."""
    after = TaskState.CANCELLED if rule is ParentFailure.CANCEL else TaskState.HELD
    return {"id": task_id, "state": after.value, "reason": _why(parent_id, parent)}


def _raw(result: object) -> object:
    """Return a result, which is JSON, unless it was changed by hand."""
    if result is None:
        return None
    try:
        return msgspec.json.decode(str(result))
    except (ValueError, RecursionError):
        return None


def _named(task: NewTask, known: KnownParents) -> dict[int | TaskKey, bool]:
    """Return a task's parents, by their ids if they are known, and whether each need only finish.

    One that is named twice, by its id and by its key, is one parent.
    """
    after_any, after = (
        [known.id_of(one) or one for one in parents] for parents in (task.after_any, task.after)
    )
    return dict.fromkeys(after_any, True) | dict.fromkeys(after, False)


def _state(parent: TaskState, any_outcome: bool, rule: ParentFailure | None) -> DependencyState:
    if parent not in FINISHED:
        return _OPEN
    does = any_outcome or parent is TaskState.SUCCEEDED or rule is ParentFailure.RUN
    return _MET if does else _BROKEN


def _rule(text: object) -> ParentFailure | None:
    return ParentFailure(str(text)) if text in {*ParentFailure} else None


def _why(parent_id: int, state: TaskState) -> str:
    return f"its parent {parent_id} {'was cancelled' if state is TaskState.CANCELLED else state}"


def _text(parent: int | TaskKey) -> str:
    return f"its parent, {parent}," if isinstance(parent, TaskKey) else f"its parent {parent}"
