"""`dispatcher list`: tasks, newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from itertools import chain, islice
from typing import Any

import click

from dispatcher.calendar import Calendar
from dispatcher.cli import lines, render
from dispatcher.cli.configuration import open_client
from dispatcher.cli.options import absolute_option, config_option, examples, json_option
from dispatcher.cli.param_types import COUNT, MOMENT, TEXT, offered
from dispatcher.cli.printing import print_json, print_json_line
from dispatcher.client import Client
from dispatcher.errors import did_you_mean
from dispatcher.model import Task, TaskFilter, TaskState
from dispatcher.obstacles import AT_REST, Obstacle, Standing
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import StoreTime, WallTime

#: Characters of a reason in a list, as the longest cell sets the width; `show` has all of it.
REASON = 80


@click.command(
    epilog=examples(
        "dispatcher list --state running --state ready",
        "dispatcher list --queue nightly --label team=data --since 2h",
        "dispatcher list --state failed --since 2026-08-01 --until 2026-08-02T06:00",
        'dispatcher list --text "gzip -k" --limit 20',
        "dispatcher list --state failed --json | jq '.[].id'",
        "dispatcher list --limit 1000000 --json-lines | grep big.log",
    )
)
@click.option(
    "--state",
    multiple=True,
    type=click.Choice([state.value for state in TaskState]),
    metavar="STATE",
    help=f"Only this state. Repeatable. {', '.join(TaskState)}.",
)
@click.option(
    "--queue", type=TEXT, metavar="NAME", shell_complete=offered("queues"), help="Only this queue."
)
@click.option(
    "--profile",
    type=TEXT,
    metavar="NAME",
    shell_complete=offered("profiles"),
    help="Only tasks of this profile.",
)
@click.option("--label", type=TEXT, metavar="NAME=VALUE", help="Only tasks with this label.")
@click.option("--text", type=TEXT, metavar="TEXT", help="Only commands that contain this.")
@click.option(
    "--since",
    type=MOMENT,
    metavar="TIME",
    help='Submitted since then: a date, or an age, e.g. "2h".',
)
@click.option(
    "--until", type=MOMENT, metavar="TIME", help='Submitted before, e.g. "2026-08-01T06:00".'
)
@click.option(
    "--limit", type=COUNT, default=100, show_default="100", metavar="N", help="Maximum to list."
)
@click.option("--oldest-first", is_flag=True, help="Start with the oldest, not the newest.")
@absolute_option
@json_option
@click.option("--json-lines", is_flag=True, help="Print JSON, a line for each task.")
@config_option
def command(*, limit: int, absolute: bool, as_json: bool, json_lines: bool, **given: Any) -> None:
    """List tasks, the newest first.

    Dates without a zone are in your zone; printed times are UTC.
    """
    with open_client() as store:
        calendar = store.calendar()
        wanted = _filter(calendar, **given)
        tasks = iter(store.each_task(replace(wanted, limit=limit + 1)))
        first = list(islice(tasks, 1))
        shown = chain(first, islice(tasks, limit - 1))
        obstacle = _obstacles(store.standing())
        as_mapping = partial(_task_json, obstacle=obstacle, calendar=calendar)
        if json_lines:
            for task in shown:
                print_json_line(as_mapping(task))
        elif as_json:
            print_json(list(map(as_mapping, shown)))
        elif first:
            _print_tasks(shown, obstacle, calendar, absolute=absolute)
        if not first:
            click.echo(f"dispatcher: no tasks{_empty_queue_text(store, wanted.queue)}", err=True)
        elif next(tasks, None) is not None:
            click.echo(f"dispatcher: {limit}{_total_text(store, wanted)}", err=True)


def _filter(
    calendar: Calendar,
    *,
    state: tuple[str, ...],
    label: str | None,
    since: int | None,
    until: int | None,
    **others: Any,
) -> TaskFilter:
    return TaskFilter(
        states=frozenset(map(TaskState, state)) or None,
        label=None if label is None else next(iter(lines.pairs("label", [label]).items())),
        since=_store_time(since, calendar),
        until=_store_time(until, calendar),
        **others,
    )


def _task_json(
    task: Task, *, obstacle: Callable[[Task], Obstacle | None], calendar: Calendar
) -> dict[str, Any]:
    return {**render.task_json(task, calendar), "obstacle": obstacle(task)}


def _empty_queue_text(store: Client, queue: str | None) -> str:
    """Return the queue without tasks, with the nearest name if there is none such."""
    if queue is None:
        return ""
    known = store.queues()
    return f" in queue {queue!r}" + ("" if queue in known else did_you_mean(queue, known))


def _total_text(store: Client, wanted: TaskFilter) -> str:
    """Return how many tasks there are in all, if the store keeps that count."""
    counted = TaskFilter(states=wanted.states, queue=wanted.queue)
    if replace(wanted, oldest_first=False) != counted:
        return " shown, and there are more; --limit N shows more"
    total = sum(
        count
        for queue, states in store.counts().items()
        for state, count in states.items()
        if wanted.queue in (None, queue) and (wanted.states is None or state in wanted.states)
    )
    return f" of {total}; --limit N shows more"


def _obstacles(standing: Standing) -> Callable[[Task], Obstacle | None]:
    """Return a function for a task's nearest obstacle: the ready ones of a queue share it."""

    @cache
    def of_queue(queue: str) -> Obstacle:
        return standing.queue_obstacles(queue)[0].obstacle

    def obstacle(task: Task) -> Obstacle | None:
        return of_queue(task.queue) if task.state is TaskState.READY else AT_REST.get(task.state)

    return obstacle


def _store_time(given: int | None, calendar: Calendar) -> StoreTime | None:
    if isinstance(given, Milliseconds):
        return StoreTime(calendar.now - given)
    return None if given is None else calendar.moment(WallTime(given))


def _print_tasks(
    tasks: Iterable[Task],
    obstacle: Callable[[Task], Obstacle | None],
    calendar: Calendar,
    *,
    absolute: bool,
) -> None:
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    rows = (
        (
            task.id,
            task.state,
            task.queue,
            f"{task.attempts_used}/{task.max_attempts}",
            render.time(task.created_at, calendar, absolute=absolute),
            _why(task, obstacle(task)),
            render.command_text(task.command),
        )
        for task in tasks
    )
    headings = ("ID", "STATE", "QUEUE", "ATTEMPTS USED", "SUBMITTED", "REASON", "COMMAND")
    print_table(headings, rows, spare=("ATTEMPTS USED", "SUBMITTED", "QUEUE"))


def _why(task: Task, obstacle: Obstacle | None) -> str:
    """Return a task's reason; of a ready one also what keeps it from running."""
    if task.state is not TaskState.READY or obstacle is None:
        return render.short(task.reason, REASON)
    return render.short(f"{obstacle.replace('_', ' ')}; {task.reason}", REASON)
