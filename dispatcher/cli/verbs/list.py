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
from dispatcher.cli.options import (
    absolute_option,
    config_option,
    examples,
    json_option,
)
from dispatcher.cli.param_types import COUNT, TEXT, Moment, offered
from dispatcher.cli.printing import print_json, print_json_line
from dispatcher.client import Client
from dispatcher.errors import did_you_mean
from dispatcher.model import Task, TaskFilter, TaskState
from dispatcher.quantities.durations import Milliseconds
from dispatcher.standing import AT_REST, Obstacle, Standing
from dispatcher.times import StoreTime, WallTime

#: Characters of a reason in a list, where one would else make every line as long; `show` has all.
REASON = 80


@click.command(
    epilog=examples(
        "dispatcher list --state running --state ready",
        "dispatcher list --queue nightly --label team=data --since 2h",
        "dispatcher list --state failed --since 2026-08-01 --until 2026-08-02T06:00",
        'dispatcher list --text "gzip -k" --limit 20',
        "dispatcher list --state failed --json | jq '.[].id'",
        "dispatcher list --limit 1000000 --json-lines | grep big.log",
    ),
)
@click.option(
    "--state",
    multiple=True,
    type=click.Choice([state.value for state in TaskState]),
    metavar="STATE",
    help=f"Only this state. Repeatable. {', '.join(TaskState)}.",
)
@click.option(
    "--queue",
    type=TEXT,
    metavar="NAME",
    shell_complete=offered("queues"),
    help="Only this queue.",
)
@click.option(
    "--profile",
    type=TEXT,
    metavar="NAME",
    shell_complete=offered("profiles"),
    help="Only tasks of this profile.",
)
@click.option("--label", type=TEXT, metavar="NAME=VALUE", help="Only tasks with this label.")
@click.option("--text", type=TEXT, metavar="TEXT", help="Only commands that have this in them.")
@click.option("--since", type=Moment(), metavar="TIME", help='Submitted since, e.g. "2h" ago.')
@click.option("--until", type=Moment(), metavar="TIME", help='Before, e.g. "2026-08-01T06:00".')
@click.option(
    "--limit",
    type=COUNT,
    default=100,
    show_default="100",
    metavar="N",
    help="At most so many.",
)
@click.option("--oldest-first", is_flag=True, help="Start with the oldest, not the newest.")
@absolute_option
@json_option
@click.option("--json-lines", is_flag=True, help="Print JSON, a line for each task.")
@config_option
def command(
    *,
    state: tuple[str, ...],
    queue: str | None,
    profile: str | None,
    label: str | None,
    text: str | None,
    since: int | None,
    until: int | None,
    limit: int,
    oldest_first: bool,
    absolute: bool,
    as_json: bool,
    json_lines: bool,
) -> None:
    """List tasks, the newest first.

    A date or time that names no zone is one of yours; what is printed is UTC.
    """
    with open_client() as store:
        calendar = store.calendar()
        wanted = TaskFilter(
            states=frozenset(map(TaskState, state)) or None,
            queue=queue,
            profile=profile,
            label=None if label is None else next(iter(lines.pairs("label", [label]).items())),
            text=text,
            since=_moment(since, calendar),
            until=_moment(until, calendar),
            oldest_first=oldest_first,
            limit=limit,
        )
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
            click.echo(f"dispatcher: no tasks{_of_queue(store, queue)}", err=True)
        elif next(tasks, None) is not None:
            click.echo(f"dispatcher: {limit}{_of_all(store, wanted)}", err=True)


def _task_json(
    task: Task, *, obstacle: Callable[[Task], Obstacle | None], calendar: Calendar
) -> dict[str, Any]:
    return {**render.task_json(task, calendar), "obstacle": obstacle(task)}


def _of_queue(store: Client, queue: str | None) -> str:
    """Return in which queue nothing was found, and which one was meant if there is none."""
    if queue is None:
        return ""
    known = store.queues()
    return f" in queue {queue!r}" + ("" if queue in known else did_you_mean(queue, known))


def _of_all(store: Client, wanted: TaskFilter) -> str:
    """Say of how many these are the first: counted only where the store keeps count."""
    counted = replace(TaskFilter(), states=wanted.states, queue=wanted.queue)
    if replace(wanted, limit=counted.limit, oldest_first=False) != counted:
        return " shown, and there are more; --limit N shows more"
    total = sum(
        count
        for queue, states in store.counts().items()
        for state, count in states.items()
        if wanted.queue in (None, queue) and (wanted.states is None or state in wanted.states)
    )
    return f" of {total}; --limit N shows more"


def _obstacles(standing: Standing) -> Callable[[Task], Obstacle | None]:
    """Return what tells the nearest obstacle of a task; all ready ones of a queue have the same."""

    @cache
    def of_queue(queue: str) -> Obstacle:
        return standing.queue_obstacles(queue)[0].obstacle

    def obstacle(task: Task) -> Obstacle | None:
        return of_queue(task.queue) if task.state is TaskState.READY else AT_REST.get(task.state)

    return obstacle


def _moment(given: int | None, calendar: Calendar) -> StoreTime | None:
    """Return a time that was given as a date, or as how long ago it was."""
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
    """Return why a task is where it is; of a ready one also what keeps it from running."""
    if task.state is not TaskState.READY or obstacle is None:
        return render.short(task.reason, REASON)
    return render.short(f"{obstacle.replace('_', ' ')}; {task.reason}", REASON)
