"""Dependencies of tasks on others, once a parent has finished or is retried.

The end of a task is passed on to those that wait for it by `resolve`, in bounded steps: one task
may be the parent of very many.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from dispatcher.dependency import Dependency, DependencyState, ParentFailure
from dispatcher.model import FINISHED, TaskState
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
        state = judged(state_from(parent_state), bool(any_outcome), _rule(rule))
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


def waive(engine: Engine, task_id: int, state: DependencyState) -> None:
    """Let a task go on without the parents on which its dependencies are in this state."""
    engine.change(sql.WAIVE, {"id": task_id, "state": state.value})


def first_broken(engine: Engine, task_id: int) -> Values | None:
    """Return what `moves.BREAK` needs of a task one of whose parents did not succeed."""
    for parent_id, state, rule in engine.rows(sql.FIRST_BROKEN, {"id": task_id}):
        return _broken(
            task_id, _rule(rule), parent_id, None if state is None else state_from(state)
        )
    return None


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
    task_id: int, rule: ParentFailure | None, parent_id: int, parent: TaskState | None
) -> dict[str, object]:
    """Return the row of `BREAK` of a task one of whose parents did not succeed."""
    after = TaskState.CANCELLED if rule is ParentFailure.CANCEL else TaskState.HELD
    return {"id": task_id, "state": after.value, "reason": why(parent_id, parent)}


def _raw(result: object) -> object:
    """Return a result as it was reported, which is JSON, unless it was changed by hand."""
    if result is None:
        return None
    try:
        return msgspec.json.decode(str(result), type=msgspec.Raw)
    except (ValueError, RecursionError):
        return None


def judged(parent: TaskState, any_outcome: bool, rule: ParentFailure | None) -> DependencyState:
    """Return the state of a dependency on a parent in this state, for which any end may do."""
    if parent not in FINISHED:
        return _OPEN
    does = any_outcome or parent is TaskState.SUCCEEDED or rule is ParentFailure.RUN
    return _MET if does else _BROKEN


def _rule(text: object) -> ParentFailure | None:
    return ParentFailure(str(text)) if text in {*ParentFailure} else None


def why(parent_id: int, state: TaskState | None) -> str:
    """Return why a task does not run whose parent is in this state; None: it does not exist."""
    does = {TaskState.CANCELLED: "was cancelled", None: "does not exist"}
    return f"its parent {parent_id} {does.get(state, state)}"
