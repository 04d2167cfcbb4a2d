"""What `wait` and `submit --wait` print about the tasks that they wait for."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from dispatcher.cli import render
from dispatcher.cli.progress import bar, is_watched
from dispatcher.client import Client
from dispatcher.execution import LOCAL
from dispatcher.model import Run, Task, TaskState
from dispatcher.operations.waiting import AwaitedTasks, are_done, deadline
from dispatcher.quantities.durations import Milliseconds
from dispatcher.selection import merged

#: Ids and ranges that a message names when many tasks go on.
_NAMED = 20

#: So many tasks are looked at for those that are not due.
_MOST_DUE = 1_000


def wait_for(
    store: Client, task_ids: Sequence[int], *, any_one: bool = False, timeout_ms: int | None = None
) -> dict[int, TaskState | None]:
    """Wait until all tasks are done, or one; print each that did not succeed, with the reason.

    Return the states of those that are done; a deleted one has none. On Ctrl-C, print what goes on
    and raise `click.Abort`.
    """
    is_idle = are_done(store.store, task_ids)
    if not is_idle and (standing := store.standing()).daemon == "not running":
        _print(f"no daemon runs here; it waits: {standing.start_command}")
    if is_watched() and len(task_ids) <= _MOST_DUE:
        _report_not_due(store, task_ids)
    awaited, until = AwaitedTasks(store.store, task_ids), deadline(timeout_ms)
    try:
        with bar("done", len(task_ids)) as progressed:
            awaited.wait(any_one=any_one, until=until, report=progressed)
    except KeyboardInterrupt:
        _print(remaining_text(remaining(task_ids, awaited.states)))
        raise click.Abort from None
    for task_id, state in awaited.states.items():
        if state is not TaskState.SUCCEEDED:
            _print(_failure_text(store, task_id, state))
    return awaited.states


def _report_not_due(store: Client, task_ids: Sequence[int]) -> None:
    with store.store.snapshot() as now:
        tasks = (store.store.task(task_id, payload=False) for task_id in task_ids)
        due = [task.run_at for task in tasks if task and task.state is TaskState.SCHEDULED]
    if due:
        _print(f"{len(due)} of {len(task_ids)} not due, the next {render.ago(min(due), now)}")


def _failure_text(store: Client, task_id: int, state: TaskState | None) -> str:
    task = store.task(task_id, payload=False)
    if task is None or state is None:
        return f"task {task_id} is gone: it was deleted"
    return f"task {task_id} {state}: {task.reason}; {_look(task, _last(store, task))}"


def outcome_json(store: Client, task_id: int, state: TaskState | None) -> dict[str, Any]:
    """Return the outcome of a task and its last run, as `--wait --json` shows it."""
    task = store.task(task_id, payload=False)
    run = None if task is None else _last(store, task)
    return {
        "state": state,
        "outcome": run and run.outcome,
        "exit_code": run and run.exit_code,
        "reason": task and task.reason,
    }


def _last(store: Client, task: Task) -> Run | None:
    return next(reversed(store.runs(task.id)), None)


def _look(task: Task, run: Run | None) -> str:
    """Return the command to type next."""
    wrote = task.state is TaskState.FAILED and run is not None and not run.node.startswith(LOCAL)
    return f"dispatcher {'logs' if wrote else 'why'} {task.id}"


def remaining(task_ids: Sequence[int], done: Mapping[int, object]) -> list[int]:
    return [task_id for task_id in dict.fromkeys(task_ids) if task_id not in done]


def remaining_text(task_ids: Sequence[int]) -> str:
    """Return which tasks go on, and the command that ends them."""
    what = f"task {task_ids[0]} goes on" if len(task_ids) == 1 else f"{len(task_ids)} tasks go on"
    named, count = _named(task_ids)
    ended = "it" if len(task_ids) == 1 else "them"
    if count < len(task_ids):
        ended = f"the first {count}"
    return f"{what}; dispatcher cancel {named} ends {ended}"


def late_text(task_ids: Sequence[int], timeout: Milliseconds) -> str:
    """Return which tasks are not done after a time-out."""
    named, count = _named(task_ids)
    if len(task_ids) == 1:
        return f"task {named} is not done after {timeout}"
    more = " …" if count < len(task_ids) else ""
    return f"{len(task_ids)} tasks are not done after {timeout}: {named}{more}"


def _named(task_ids: Sequence[int]) -> tuple[str, int]:
    """Return tasks as ids and ranges, as a verb takes them, and how many tasks these are."""
    spans = merged([range(one, one + 1) for one in task_ids])[:_NAMED]
    named = [f"{one[0]}-{one[-1]}" if len(one) > 1 else f"{one[0]}" for one in spans]
    return " ".join(named), sum(map(len, spans))


def _print(text: str) -> None:
    click.echo(f"dispatcher: {render.plain(text)}", err=True)
