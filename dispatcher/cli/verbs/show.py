"""`dispatcher show`: a task with all its runs, and what happened to it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import click

from dispatcher.cli import event_text, kin, render, task_limits
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import (
    absolute_option,
    config_option,
    examples,
    json_option,
)
from dispatcher.cli.printing import print_json, print_json_list
from dispatcher.cli.several import each_id, one_id, task_ids_argument
from dispatcher.cli.sources import is_here
from dispatcher.client import Client
from dispatcher.errors import NoTask
from dispatcher.events import StoreEvent
from dispatcher.handover import Handover
from dispatcher.host.run_output import dropped
from dispatcher.model import Run, Task, TaskState
from dispatcher.operations.tasks import submitters_variables
from dispatcher.times import StoreTime

#: Lines of a run's output that `show` ends with.
LAST_LINES = 10


#: Events that `show` prints.
LAST_EVENTS = 20

#: Prints a time as one wants it.
_Date = Callable[[StoreTime | None], str]


@click.command(
    epilog=examples(
        "dispatcher show 42", "dispatcher show 42 45-47", "dispatcher show 42 --json | jq .state"
    )
)
@task_ids_argument
@absolute_option
@json_option
@config_option
def command(*, tasks: tuple[int | range, ...], absolute: bool, as_json: bool) -> None:
    """Show tasks with all their runs, oldest first, and what happened to them.

    JSON is an object for one ID, and otherwise a list.
    """
    with open_client() as store:
        if as_json:
            shown = (_as_json(store, task_id) for task_id in each_id(store, tasks))
            if one_id(tasks) is None:
                print_json_list(shown)
            else:
                print_json(next(shown))
            return
        for number, task_id in enumerate(each_id(store, tasks)):
            if number:
                click.echo()
            _print(store, task_id, absolute=absolute)


def _task(store: Client, task_id: int) -> Task:
    if (task := store.task(task_id)) is None:
        raise NoTask(task_id)
    return task


def _as_json(store: Client, task_id: int) -> dict[str, Any]:
    task, budget = _task(store, task_id), store.config.output.run_budget
    runs = store.runs(task_id)
    shown = render.task_with_runs_json(task, runs, store.calendar(), budget=budget)
    for run, of_run in zip(runs, shown["runs"], strict=True):
        of_run["output_is_gone"] &= is_here(store, run)
    calendar = store.calendar()
    most = kin.MOST_IN_JSON
    last = {
        **kin.as_json(store.parents(task_id, limit=most), store.children(task_id, limit=most)),
        **render.handover_json(store.handover(task_id)),
        "environment": submitters_variables(store.store, task),
        "events": [event_text.event_json(one, calendar) for one in _events(store, task_id)],
        "runs": shown.pop("runs"),
    }
    return {**shown, **last}


def _events(store: Client, task_id: int) -> list[StoreEvent]:
    with store.store.snapshot():
        return store.store.task_events(task_id)


def _print(store: Client, task_id: int, *, absolute: bool) -> None:
    task, runs, calendar = _task(store, task_id), store.runs(task_id), store.calendar()
    date = partial(render.time, calendar=calendar, absolute=absolute)
    variables = submitters_variables(store.store, task)
    facts = {"made by": task.origin, **_kin(store, task), **_handover(store.handover(task_id))}
    _print_task(task, runs[-1] if runs else None, date, variables, facts)
    hosts = {one.node.id: one.name for one in store.nodes()}
    if runs:
        _print_runs(runs, date, calendar.now, store.config.output.run_budget, hosts)
    _print_events(_events(store, task_id), date, hosts)
    if runs:
        _print_last_lines(runs[-1], is_here=is_here(store, runs[-1]))


def _kin(store: Client, task: Task) -> dict[str, str]:
    """Return the parents and the children of a task, as facts of it."""
    most = kin.MOST + 1
    parents = [] if task.blockers is None else store.parents(task.id, limit=most)
    children = store.children(task.id, limit=most)
    return {
        "after": kin.named(map(kin.parent_text, parents)),
        "otherwise": (parents and kin.rule_text(task)) or "",
        "children": kin.named(map(kin.child_text, children)),
    }


def _handover(left: Handover | None) -> dict[str, str | None]:
    """Return what a task's last runs left for the next one, as facts of it."""
    if left is None:
        return {}
    asks = left.question and f"{left.kind or 'question'}: {left.question}"
    return {
        "asks": render.short(asks),
        "answer": render.short(left.answer),
        "checkpoint": render.short(left.checkpoint),
    }


def _print_task(
    task: Task,
    last: Run | None,
    date: _Date,
    environment: list[str] | None,
    more: Mapping[str, str | None],
) -> None:
    due = task.run_at if task.state is TaskState.SCHEDULED else None
    facts = {
        "state": f"{task.state}: {task.reason}",
        "command": render.command_text(task.command),
        "queue": task_limits.order_text(task),
        "attempts": f"{task.attempts_used} of {task.max_attempts} used",
        "submitted": date(task.created_at),
        "due": date(due),
        **more,
        "time-outs": task_limits.timeouts_text(task),
        "fails": date(task.fails_at),
        "ended by": task_limits.kill_text(task),
        "retries": task_limits.retry_text(task),
        "intent": task.intent and f"{task.intent}: {task.intent_reason}",
        "finished": date(task.finished_at),
        "directory": task.cwd,
        "shell": _shell_text(task, environment),
        "variables": " ".join(sorted(task.env)),
        "profile": task.profile,
        "key": task.key,
        "one of": task.concurrency_key,
        "labels": render.pairs_text(task.labels),
        "requires": render.pairs_text(task.requires),
        "limits": render.pairs_text({name: str(many) for name, many in task.takes.items()}),
        "payload": render.short(task.payload),
        "progress": last and render.progress_text(last),
        "heartbeat": last and date(last.last_heartbeat_at),
        "result": last and render.short(last.result),
    }
    click.echo(f"task {task.id}")
    for name, value in facts.items():
        if value:
            click.echo(f"  {name:<10} {render.line(value)}")


def _shell_text(task: Task, environment: list[str] | None) -> str | None:
    """Return what its runs get of the shell that submitted it; --json has every name."""
    if environment is None:
        return None if task.environment_id is None else "its submitter's, damaged by hand"
    umask = "" if task.umask is None else f", umask {task.umask:04o}"
    return f"{len(environment)} variables of its submitter{umask}"


def _print_runs(
    runs: list[Run], date: _Date, now: StoreTime, budget: int, hosts: Mapping[str, str]
) -> None:
    """Print a table of runs; `hosts`: the names of the store's nodes, by id."""
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    click.echo()
    several = len(hosts) > 1
    print_table(
        ("RUN", "ATTEMPT", "OUTCOME", *["HOST"] * several, "PID", "STARTED", "TOOK", "REASON"),
        (
            (
                run.id,
                run.attempt,
                run.outcome or "running",
                *[render.plain(hosts.get(run.node, run.node.partition(":")[0][:8]))] * several,
                run.pid,
                date(render.began(run)),
                render.duration(render.began(run), run.ended_at or now),
                render.plain(run.reason or ""),
            )
            for run in runs
        ),
        spare=("PID", "ATTEMPT"),
    )
    for run in runs:
        if run.left_alone:
            names = render.plain(", ".join(run.left_alone))
            click.echo(f"\nrun {run.id} left processes that go on: {names}")
        if run.leftovers:
            names = render.plain(", ".join(run.leftovers))
            click.echo(f"\nrun {run.id} left processes behind, which were ended: {names}")
        if run.output_truncated:
            click.echo(f"\nrun {run.id}: {render.truncated(run)}")
        if lost := dropped(run.output_path, budget):
            click.echo(f"\nrun {run.id}: {lost} bytes of its output were dropped, the oldest")


def _print_events(events: Sequence[StoreEvent], date: _Date, hosts: Mapping[str, str]) -> None:
    """Print a table of what happened, unless that is the submit alone: the last events of many."""
    if len(events) < 2:
        return
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    click.echo()
    last = events[-LAST_EVENTS:]
    print_table(
        ("WHEN", "EVENT", "STATE", "WHO", "WHY"),
        (event_text.row(event, date(event.at), hosts) for event in last),
    )
    if earlier := len(events) - len(last):
        click.echo(f"earlier events: {earlier}; dispatcher events --task {events[0].task_id}")


def _print_last_lines(run: Run, *, is_here: bool) -> None:
    if last := render.tail(run):
        rest = "" if is_here else " (its node has the rest)"
        if is_here and render.output_is_gone(run):
            rest = " (the rest was removed)"
        click.echo(f"\nlast output of run {run.id}{rest}:")
        for line in render.as_on_a_terminal(last)[-LAST_LINES:]:
            click.echo(render.plain(line))
