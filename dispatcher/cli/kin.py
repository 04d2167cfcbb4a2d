"""A task's parents and children, as lines and as JSON; many tasks as trees."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from dispatcher.cli import render
from dispatcher.dependency import Dependency, DependencyState, ParentFailure
from dispatcher.model import FINISHED, Task, TaskState

#: Parents, or children, that are named of one task.
MOST: Final = 20

#: The same in JSON.
MOST_IN_JSON: Final = 1000

#: Characters of a reason in a line about another task.
_REASON: Final = 60


def parent_text(one: Dependency) -> str:
    """Return a parent with its state, and why it has that while a child waits for it."""
    if one.other is None:
        return f"{one.parent_id} (deleted)"
    why = ""
    if one.other not in FINISHED and one.other_reason:
        why = f": {render.short(one.other_reason, _REASON)}"
    return f"{one.parent_id} ({one.other}{why})"


def child_text(one: Dependency) -> str:
    return f"{one.task_id} ({one.other or 'deleted'})"


def rule_text(task: Task) -> str | None:
    """Return what becomes of a task if a parent does not succeed; None: nothing any more."""
    if task.blockers is None or task.state in FINISHED:
        return None
    match task.on_parent_failure:
        case ParentFailure.CANCEL:
            return "it is cancelled"
        case ParentFailure.RUN:
            return "it runs"
    return "it is held"


def named(texts: Iterable[str]) -> str:
    """Return the first `MOST` of some texts, and whether there are more."""
    shown = list(texts)
    more = ["…"] if len(shown) > MOST else []
    return ", ".join([*shown[:MOST], *more])


def as_json(parents: Sequence[Dependency], children: Sequence[Dependency]) -> dict[str, Any]:
    """Return the part of `show --json` about them; `needs`: "success", or "end"."""
    return {
        "parents": [
            {
                "id": one.parent_id,
                "state": one.other,
                "needs": "end" if one.any_outcome else "success",
                "is": one.state,
            }
            for one in parents
        ],
        "children": [{"id": one.task_id, "state": one.other, "is": one.state} for one in children],
    }


def waits(task: Task, parents: Sequence[Dependency]) -> Iterator[str]:
    """Yield for which parents a task waits, or which kept it from running."""
    if task.state in FINISHED:
        return
    if task.state in (TaskState.WAITING, TaskState.HELD):
        yield from _awaited(task, parents)
    for one in [one for one in parents if one.state is DependencyState.BROKEN][:MOST]:
        yield (
            f"its parent {parent_text(one)} did not succeed; dispatcher retry {one.parent_id} lets"
            " it wait for that again"
        )


def _awaited(task: Task, parents: Sequence[Dependency]) -> Iterator[str]:
    for one in [one for one in parents if one.state is DependencyState.OPEN][:MOST]:
        needs = "end" if one.any_outcome or task.on_parent_failure == "run" else "succeed"
        yield f"it waits for task {parent_text(one)} to {needs}"
    if task.state is TaskState.WAITING:
        yield f"dispatcher release {task.id} lets it run before that"


def tree(found: Iterable[Task], dependencies: Iterable[Dependency]) -> Iterator[str]:
    """Yield a line for each task, each child below the first of its parents that is there too."""
    tasks = {task.id: task for task in found}
    parents: dict[int, list[int]] = {}
    for one in dependencies:
        parents.setdefault(one.task_id, []).append(one.parent_id)
    children: dict[int, list[int]] = {}
    roots = []
    for task_id in sorted(tasks):
        # A parent is older, unless a row was changed by hand.
        above = next((one for one in parents.get(task_id, ()) if one in tasks), task_id)
        if above >= task_id:
            roots.append(task_id)
        else:
            children.setdefault(above, []).append(task_id)
    left: list[tuple[int, int, int | None]] = [(one, 0, None) for one in reversed(roots)]
    while left:
        task_id, depth, parent = left.pop()
        others = [one for one in parents.get(task_id, ()) if one != parent]
        yield _line(tasks[task_id], depth, others)
        below = reversed(children.get(task_id, ()))
        left += [(child, depth + 1, task_id) for child in below]


def _line(task: Task, depth: int, others: Sequence[int]) -> str:
    also = f"  (also after {', '.join(map(str, others))})" if others else ""
    command = render.short(render.command_text(task.command), 60)
    return f"{'  ' * depth}{task.id} {task.state}  {command}{also}"
