"""`dispatcher cancel`, `retry` and `prune`: what operators do to tasks."""

from __future__ import annotations

import click

from dispatcher.cli.options import (
    Duration,
    client,
    config_option,
    configuration,
    examples,
    json_option,
    many_ids,
    print_json,
    reason_option,
)
from dispatcher.cli.progress import bar
from dispatcher.client import Client
from dispatcher.config.durations import Milliseconds
from dispatcher.config.settings import LEAST_RETENTION
from dispatcher.errors import DispatcherError, NoTask
from dispatcher.model import FINISHED, Task, TaskState

_RETRIED = frozenset({TaskState.FAILED, TaskState.CANCELLED, TaskState.HELD})


@click.command(epilog=examples("dispatcher cancel 42", "dispatcher cancel 42 43 44"))
@many_ids
@json_option
@config_option
def cancel(*, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Cancel tasks. Running ones are ended: their whole process tree.

    A cancelled task stays cancelled; one that succeeded or failed before stays so, exit code 1.
    """
    with client() as store:
        before = {task_id: store.cancel(task_id) for task_id in task_ids}
        done = {task_id: _ended(store.task(task_id), "cancelled") for task_id in task_ids}
    wrong = {
        task_id: f"task {task_id} has {state} already; there is nothing to cancel"
        for task_id, state in before.items()
        if state in FINISHED - {TaskState.CANCELLED}
    }
    _report(before, wrong, done, as_json)


def _ended(task: Task | None, word: str) -> str:
    running = task is not None and task.state is TaskState.RUNNING
    return "is being ended" if running else word


@click.command(epilog=examples("dispatcher retry 42"))
@many_ids
@json_option
@config_option
def retry(*, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Make failed, cancelled or held tasks ready again, with all their attempts."""
    with client() as store:
        before = {task_id: store.retry(task_id) for task_id in task_ids}
    wrong = {
        task_id: f"task {task_id} is {state}; only failed, cancelled and held ones can be retried"
        for task_id, state in before.items()
        if state is not None and state not in _RETRIED
    }
    _report(before, wrong, dict.fromkeys(task_ids, "ready"), as_json)


@click.command(epilog=examples("dispatcher hold 42", 'dispatcher hold 42 --reason "disk is full"'))
@many_ids
@reason_option("held by an operator")
@json_option
@config_option
def hold(*, task_ids: tuple[int, ...], reason: str, as_json: bool) -> None:
    """Park tasks until they are released. Running ones are ended: their whole process tree.

    What has ended already stays as it is, exit code 1.
    """
    with client() as store:
        before = {task_id: store.hold(task_id, reason) for task_id in task_ids}
        done = {task_id: _ended(store.task(task_id), "held") for task_id in task_ids}
    wrong = {
        task_id: f"task {task_id} has {state} already; there is nothing to hold"
        for task_id, state in before.items()
        if state in FINISHED
    }
    _report(before, wrong, done, as_json)


@click.command(epilog=examples("dispatcher release 42"))
@many_ids
@json_option
@config_option
def release(*, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Make held tasks ready, with the attempts they have left; `retry` gives all of them back."""
    with client() as store:
        before = {task_id: store.release(task_id) for task_id in task_ids}
    wrong = {
        task_id: f"task {task_id} is {state}; only held ones can be released"
        for task_id, state in before.items()
        if state is not None and state is not TaskState.HELD
    }
    _report(before, wrong, dict.fromkeys(task_ids, "ready"), as_json)


@click.command(
    epilog=examples(
        "dispatcher prune",
        "dispatcher prune --older-than 12h --dry-run",
        "dispatcher prune --older-than 1h --state succeeded",
    )
)
@click.option(
    "--older-than",
    type=Duration(),
    metavar="DURATION",
    help="Finished at least so long ago [default: output.retention, 30d].",
)
@click.option(
    "--state",
    multiple=True,
    type=click.Choice(sorted(state.value for state in FINISHED)),
    metavar="STATE",
    help=f"Only this state. Repeatable. {', '.join(sorted(FINISHED))}.",
)
@click.option("--dry-run", is_flag=True, help="Delete nothing; say how many it would be.")
@json_option
@config_option
def prune(
    *, older_than: Milliseconds | None, state: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Delete tasks that finished long ago, with their runs and output files.

    With an age below 1s, which is everything that has finished, it wants the states to be named.
    """
    config = configuration()
    age = config.output.retention_ms if older_than is None else older_than
    if age is None:
        told = '[output] retention is "never": say how old, e.g. --older-than 30d'
        raise click.UsageError(told)
    if age < LEAST_RETENTION and not state and not dry_run:
        told = f"--older-than {age} deletes all that has finished"
        raise click.UsageError(f"{told}; name what, e.g. --state succeeded, or try: --dry-run")
    states = frozenset(map(TaskState, state)) or FINISHED
    with Client(config) as store:
        many = store.prunable(older_than_ms=age, states=states)
        if dry_run:
            if as_json:
                print_json({"dry_run": True, "tasks": many})
            else:
                click.echo(f"would delete: {many} tasks, with their runs and output files")
            return
        with bar("deleted", many) as tell:
            pruned = store.prune(older_than_ms=age, states=states, tell=tell)
    if as_json:
        print_json({"tasks": pruned.tasks, "output_files": len(pruned.output_paths)})
    else:
        click.echo(f"deleted: {pruned.tasks} tasks, {len(pruned.output_paths)} output files")


def _report(
    before: dict[int, TaskState | None],
    wrong: dict[int, str],
    done: dict[int, str],
    as_json: bool,
) -> None:
    """Print what was done to each task; raise for those to which nothing could be."""
    wrong |= {task_id: str(NoTask(task_id)) for task_id, state in before.items() if state is None}
    if as_json:
        print_json(
            [
                {"id": task_id, "was": state, "done": task_id not in wrong}
                for task_id, state in before.items()
            ]
        )
    else:
        for task_id, state in before.items():
            if task_id not in wrong and state is not None:
                click.echo(f"{task_id} {done[task_id]}")
    if wrong:
        raise DispatcherError("\n".join(wrong.values()))
