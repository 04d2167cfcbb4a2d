"""`dispatcher logs`: what a task's run wrote."""

import sys

import click

from dispatcher.cli import render
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples
from dispatcher.cli.output import print_end
from dispatcher.cli.param_types import COUNT, TaskIds
from dispatcher.cli.several import one_id
from dispatcher.cli.sources import opened
from dispatcher.client import Client
from dispatcher.errors import DispatcherError, NoTask
from dispatcher.execution import LOCAL
from dispatcher.model import FINISHED, Run

SEVERAL = (
    "logs prints one task: for id in 20 21; do dispatcher logs $id; done;"
    " dispatcher show takes several ids, and shows the last lines of each"
)


@click.command(
    epilog=examples(
        "dispatcher logs 42",
        "dispatcher logs 42 --run 57",
        "dispatcher logs 42 -n 20",
        "dispatcher logs -f 42   # until it is finished or held",
    )
)
@click.argument("tasks", metavar="ID", type=TaskIds(), nargs=-1, required=True)
@click.option("--run", "run_id", type=int, metavar="N", help="Id of the run [default: the last].")
@click.option("-n", "--tail", type=COUNT, metavar="N", help="Begin with the last N lines.")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Follow the output as it grows, through later runs, until the task is finished or held.",
)
@config_option
def command(
    *, tasks: tuple[int | range, ...], run_id: int | None, tail: int | None, follow: bool
) -> None:
    """Print the stdout and stderr of a task's run, also of one on another node that listens."""
    if (task_id := one_id(tasks)) is None:
        raise click.UsageError(SEVERAL)
    with open_client() as store:
        if follow:
            from dispatcher.cli import follow as following  # noqa: PLC0415 - for -f alone

            if run_id is None:
                following.await_run(store, task_id)
            following.follow(store, task_id, _chosen_run(store, task_id, run_id), tail=tail)
            return
        run = _chosen_run(store, task_id, run_id)
        found = opened(store, run, tail=tail)
    with found as output:
        if not output.exists():
            print_end(run, exists=False)
        wrote = False
        while chunk := output.read():
            wrote = True
            sys.stdout.buffer.write(chunk)
        if run.outcome and run.output_tail and output.exists() and not wrote:
            print_end(run, exists=True)
        if output.dropped:
            lost = f"{output.dropped} bytes of it were dropped to keep the budget"
            click.echo(f"dispatcher: {lost}", err=True)
        if output.holes:
            left_out = f"{output.holes} bytes of it were never written: holes, which are left out"
            click.echo(f"dispatcher: {left_out}", err=True)
    if run.output_truncated:
        click.echo(f"dispatcher: {render.truncated(run)}", err=True)
    sys.stdout.buffer.flush()


def _chosen_run(store: Client, task_id: int, run_id: int | None) -> Run:
    task, runs = store.task(task_id, payload=False), store.runs(task_id)
    if task is None:
        raise NoTask(task_id)
    if not runs and task.state in FINISHED:
        raise DispatcherError(f"task {task_id} never ran: {task.state}, {task.reason}")
    if not runs:
        raise DispatcherError(
            f"task {task_id} has not run yet: {task.state}, {task.reason};"
            f" `dispatcher why {task_id}` shows what it waits for"
        )
    chosen = {run.id: run for run in runs}.get(runs[-1].id if run_id is None else run_id)
    if chosen is None:
        known = ", ".join(str(run.id) for run in runs)
        raise DispatcherError(f"task {task_id} has no run {run_id}; its runs: {known}")
    if chosen.node.startswith(LOCAL):
        raise DispatcherError(f"run {chosen.id} is a local claim; its output was not captured")
    return chosen
