"""`dispatcher list`, `show` and `logs`: what became of tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from itertools import chain, islice
from typing import Any

import click

from dispatcher.calendar import Calendar
from dispatcher.cli import lines, render
from dispatcher.cli.options import (
    COUNT,
    TEXT,
    Moment,
    absolute_option,
    client,
    config_option,
    examples,
    json_option,
    offered,
    one_id,
    print_json,
    print_json_line,
)
from dispatcher.cli.output import RunOutput, dropped, print_end
from dispatcher.client import Client
from dispatcher.errors import DispatcherError, NoTask, did_you_mean
from dispatcher.model import LOCAL, Run, Task, TaskFilter, TaskState
from dispatcher.quantities.durations import Milliseconds
from dispatcher.standing import AT_REST, Obstacle, Standing
from dispatcher.times import StoreTime, WallTime

#: Characters of a reason in a list, where one would else make every line as long; `show` has all.
REASON = 80

#: Lines of a run's output that `show` ends with.
LAST_LINES = 10

#: Prints a time as one wants it.
_Date = Callable[[StoreTime | None], str]


@click.command(
    "list",
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
def list_tasks(
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
    with client() as store:
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
        return standing.before_queue(queue)[0].obstacle

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


@click.command(epilog=examples("dispatcher show 42", "dispatcher show 42 --json | jq .state"))
@one_id
@absolute_option
@json_option
@config_option
def show(*, task_id: int, absolute: bool, as_json: bool) -> None:
    """Show a task with all its runs, oldest first."""
    with client() as store:
        if (task := store.task(task_id)) is None:
            raise NoTask(task_id)
        runs, calendar = store.runs(task_id), store.calendar()
        budget = store.config.output.run_budget
    if as_json:
        print_json(render.task_with_runs_json(task, runs, calendar, budget=budget))
    else:
        date = partial(render.time, calendar=calendar, absolute=absolute)
        _print_task(task, runs[-1] if runs else None, date)
        if runs:
            _print_runs(runs, date, budget)


@click.command(
    epilog=examples(
        "dispatcher logs 42",
        "dispatcher logs 42 --run 57",
        "dispatcher logs 42 --tail 20",
        "dispatcher logs -f 42   # until it ends",
    )
)
@one_id
@click.option("--run", "run_id", type=int, metavar="N", help="Id of the run [default: the last].")
@click.option(
    "--tail",
    type=COUNT,
    metavar="N",
    help="Begin with the last N lines.",
)
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on as the output grows, through later runs, until the task is at rest.",
)
@config_option
def logs(*, task_id: int, run_id: int | None, tail: int | None, follow: bool) -> None:
    """Print what a task's run wrote to its stdout and stderr."""
    with client() as store:
        if follow:
            from dispatcher.cli import follow as looking_on  # noqa: PLC0415 - who looks on

            if run_id is None:
                looking_on.await_run(store, task_id)
            looking_on.follow(store, task_id, _run(store, task_id, run_id), tail=tail)
            return
        run = _run(store, task_id, run_id)
        budget = store.config.output.run_budget
    with RunOutput(run.output_path, budget=budget, tail=tail) as output:
        if not output.exists():
            print_end(run)
        wrote = False
        while chunk := output.read():
            wrote = True
            sys.stdout.buffer.write(chunk)
        if run.outcome and run.output_tail and output.exists() and not wrote:
            print_end(run)
        if output.dropped:
            lost = f"{output.dropped} bytes of it were dropped to keep the budget"
            click.echo(f"dispatcher: {lost}", err=True)
        if output.holes:
            left_out = f"{output.holes} bytes of it were never written, and are left out"
            click.echo(f"dispatcher: {left_out}", err=True)
    if run.output_truncated:
        click.echo(f"dispatcher: {render.truncated(run)}", err=True)
    sys.stdout.buffer.flush()


def _run(store: Client, task_id: int, run_id: int | None) -> Run:
    task, runs = store.task(task_id), store.runs(task_id)
    if task is None:
        raise NoTask(task_id)
    if not runs:
        raise DispatcherError(
            f"task {task_id} has not run yet: {task.state}, {task.reason};"
            f" `dispatcher why {task_id}` says what it waits for"
        )
    chosen = {run.id: run for run in runs}.get(runs[-1].id if run_id is None else run_id)
    if chosen is None:
        known = ", ".join(str(run.id) for run in runs)
        raise DispatcherError(f"task {task_id} has no run {run_id}; its runs: {known}")
    if chosen.node.startswith(LOCAL):
        told = f"run {chosen.id} was driven by hand; what it wrote is where its driver put it"
        raise DispatcherError(told)
    return chosen


def _print_task(task: Task, last: Run | None, date: _Date) -> None:
    due = task.run_at if task.state is TaskState.SCHEDULED else None
    facts = {
        "state": f"{task.state}: {task.reason}",
        "command": render.command_text(task.command),
        "queue": f"{task.queue}, priority {task.priority}",
        "attempts": f"{task.attempts_used} of {task.max_attempts} used",
        "submitted": date(task.created_at),
        "due": date(due),
        "time-outs": render.timeouts_text(task),
        "fails": date(task.fails_at),
        "ended by": render.kill_text(task),
        "intent": task.intent and f"{task.intent}: {task.intent_reason}",
        "finished": date(task.finished_at),
        "directory": task.cwd,
        "variables": " ".join(sorted(task.env)),
        "profile": task.profile,
        "key": task.key,
        "labels": render.pairs_text(task.labels),
        "payload": render.short(task.payload),
        "progress": last and render.progress_text(last),
        "heartbeat": last and date(last.last_heartbeat_at),
        "result": last and render.short(last.result),
    }
    click.echo(f"task {task.id}")
    for name, value in facts.items():
        if value:
            click.echo(f"  {name:<10} {render.line(value)}")


def _print_runs(runs: list[Run], date: _Date, budget: int) -> None:
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    click.echo()
    print_table(
        ("RUN", "ATTEMPT", "OUTCOME", "PID", "STARTED", "TOOK", "REASON"),
        (
            (
                run.id,
                run.attempt,
                run.outcome or "running",
                run.pid,
                date(render.began(run)),
                render.duration(render.began(run), run.ended_at),
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
    last = render.tail(runs[-1])
    if last:
        gone = " (the rest was removed)" if render.output_is_gone(runs[-1]) else ""
        click.echo(f"\nlast output of run {runs[-1].id}{gone}:")
        for line in render.as_on_a_terminal(last)[-LAST_LINES:]:
            click.echo(render.plain(line))
