"""`dispatcher cancel`, `retry` and `prune`: what operators do to tasks."""

from __future__ import annotations

import click

from dispatcher.cli.answers import report
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
from dispatcher.config.settings import LEAST_RETENTION
from dispatcher.model import FINISHED, Intent, TaskState
from dispatcher.quantities.durations import Milliseconds


@click.command(epilog=examples("dispatcher cancel 42", "dispatcher cancel 42 43 44"))
@many_ids
@json_option
@config_option
def cancel(*, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Cancel tasks. Running ones are ended: their whole process tree.

    One whose run is ending already is cancelled once it has ended. A cancelled task stays
    cancelled; one that succeeded or failed before stays so, exit code 1.
    """
    with client() as store:
        asked = [store.ask(task_id, Intent.CANCEL) for task_id in task_ids]
        report(store, asked, as_json=as_json)


@click.command(epilog=examples("dispatcher retry 42"))
@many_ids
@json_option
@config_option
def retry(*, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Make failed, cancelled or held tasks ready again, with all their attempts.

    One whose run is ending becomes ready once it has ended.
    """
    with client() as store:
        asked = [store.ask(task_id, Intent.RETRY) for task_id in task_ids]
        report(store, asked, as_json=as_json)


@click.command(epilog=examples("dispatcher hold 42", 'dispatcher hold 42 --reason "disk is full"'))
@many_ids
@reason_option("held by an operator")
@json_option
@config_option
def hold(*, task_ids: tuple[int, ...], reason: str, as_json: bool) -> None:
    """Park tasks until they are released. Running ones are ended: their whole process tree.

    One whose run is ending already is held once it has ended. What has ended stays as it is, exit
    code 1.
    """
    with client() as store:
        asked = [store.ask(task_id, Intent.HOLD, reason) for task_id in task_ids]
        report(store, asked, as_json=as_json)


@click.command(epilog=examples("dispatcher release 42"))
@many_ids
@json_option
@config_option
def release(*, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Make held tasks ready, with the attempts they have left; `retry` gives all of them back.

    One that is going to be held becomes ready once its run has ended.
    """
    with client() as store:
        asked = [store.ask(task_id, Intent.RELEASE) for task_id in task_ids]
        report(store, asked, as_json=as_json)


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
