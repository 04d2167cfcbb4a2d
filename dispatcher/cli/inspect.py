"""`dispatcher list`, `show` and `logs`: what became of tasks."""

from __future__ import annotations

import sys

import click

from dispatcher.cli import lines, render
from dispatcher.cli.options import (
    client,
    config_option,
    examples,
    json_option,
    one_id,
    print_json,
)
from dispatcher.cli.output import Output
from dispatcher.client import Client
from dispatcher.errors import DispatcherError, NoTask
from dispatcher.model import LOCAL, Run, Task, TaskFilter, TaskState


@click.command(
    "list",
    epilog=examples(
        "dispatcher list --state running --state ready",
        "dispatcher list --queue nightly --label team=data --limit 20",
        "dispatcher list --state failed --json | jq '.[].id'",
    ),
)
@click.option(
    "--state",
    multiple=True,
    type=click.Choice([state.value for state in TaskState]),
    help="Only this state. Repeatable.",
)
@click.option("--queue", metavar="NAME", help="Only this queue.")
@click.option("--label", metavar="NAME=VALUE", help="Only tasks with this label.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@json_option
@config_option
def list_tasks(
    *, state: tuple[str, ...], queue: str | None, label: str | None, limit: int, as_json: bool
) -> None:
    """List tasks, newest first."""
    wanted = TaskFilter(
        states=frozenset(map(TaskState, state)) or None,
        queue=queue,
        label=next(iter(lines.pairs("label", [label]).items())) if label else None,
        limit=limit,
    )
    with client() as store:
        tasks = store.tasks(wanted)
    if as_json:
        print_json([render.task_json(task) for task in tasks])
        return
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - rich

    print_table(
        ("ID", "STATE", "QUEUE", "PRIORITY", "ATTEMPTS", "REASON", "COMMAND"),
        (
            (
                task.id,
                task.state,
                task.queue,
                task.priority,
                f"{task.attempt}/{task.max_attempts}",
                render.plain(task.reason),
                render.command_text(task.command),
            )
            for task in tasks
        ),
    )


@click.command(epilog=examples("dispatcher show 42", "dispatcher show 42 --json | jq .state"))
@one_id
@json_option
@config_option
def show(*, task_id: int, as_json: bool) -> None:
    """Show a task with all its runs, oldest first."""
    task, runs = _look_up(task_id)
    if as_json:
        print_json(render.task_with_runs_json(task, runs))
    else:
        _print_task(task)
        if runs:
            _print_runs(runs)


@click.command(
    epilog=examples(
        "dispatcher logs 42",
        "dispatcher logs 42 --run 57",
        "dispatcher logs -f 42   # until it ends",
    )
)
@one_id
@click.option("--run", "run_id", type=int, metavar="N", help="Id of the run [default: the last].")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on as the output grows, through later runs, until the task is at rest.",
)
@config_option
def logs(*, task_id: int, run_id: int | None, follow: bool) -> None:
    """Print what a task's run wrote to its stdout and stderr."""
    with client() as store:
        run = _run(store, task_id, run_id)
        if follow:
            from dispatcher.cli.follow import follow as go_on  # noqa: PLC0415 - who looks on

            go_on(store, task_id, run)
            return
    with Output(run.output_path) as output:
        if not output.exists():
            _print_end(run)
        while chunk := output.read():
            sys.stdout.buffer.write(chunk)
        if output.dropped:
            lost = f"{output.dropped} bytes of it were dropped to keep the budget"
            click.echo(f"dispatcher: {lost}", err=True)
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


def _print_end(run: Run) -> None:
    """Print what the store kept of an output file that is gone."""
    if run.output_tail is None:
        raise DispatcherError(f"{run.output_path} is gone, and nothing was kept")
    if run.output_tail:  # a run that wrote nothing leaves no file, and nothing is missing
        click.echo(f"dispatcher: {run.output_path} is gone; this was its end:", err=True)
        sys.stdout.buffer.write(run.output_tail.encode())


def _look_up(task_id: int) -> tuple[Task, list[Run]]:
    with client() as store:
        task, runs = store.task(task_id), store.runs(task_id)
    if task is None:
        raise NoTask(task_id)
    return task, runs


def _print_task(task: Task) -> None:
    facts = {
        "state": f"{task.state}: {task.reason}",
        "command": render.command_text(task.command),
        "queue": f"{task.queue}, priority {task.priority}",
        "attempts": f"{task.attempt} of {task.max_attempts} used",
        "created": render.moment(task.created_at),
        "due": render.moment(task.run_at) if task.state is TaskState.SCHEDULED else None,
        "time-outs": render.timeouts_text(task),
        "fails": render.moment(task.fails_at),
        "ended by": render.kill_text(task),
        "finished": render.moment(task.finished_at),
        "directory": task.cwd,
        "variables": " ".join(sorted(task.env)),
        "key": task.key,
        "labels": render.pairs_text(task.labels),
    }
    click.echo(f"task {task.id}")
    for name, value in facts.items():
        if value:
            click.echo(f"  {name:<10} {render.plain(value)}")


def _print_runs(runs: list[Run]) -> None:
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - rich

    click.echo()
    print_table(
        ("RUN", "ATTEMPT", "OUTCOME", "PID", "STARTED", "TOOK", "REASON"),
        (
            (
                run.id,
                run.attempt,
                run.outcome or "running",
                run.pid,
                render.moment(run.started_at),
                render.duration(run.started_at, run.ended_at),
                render.plain(run.reason or ""),
            )
            for run in runs
        ),
    )
    last = render.tail(runs[-1])
    if last:
        click.echo(f"\nlast output of run {runs[-1].id}:")
        click.echo(render.plain(last).rstrip("\n"))
