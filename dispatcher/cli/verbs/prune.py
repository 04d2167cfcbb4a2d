"""`dispatcher prune`: delete tasks that finished long ago."""

from __future__ import annotations

import click

from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import DURATION
from dispatcher.cli.printing import print_json
from dispatcher.cli.progress import bar
from dispatcher.client import Client
from dispatcher.config.section import LEAST_RETENTION
from dispatcher.model import FINISHED, TaskState
from dispatcher.quantities.durations import Milliseconds


@click.command(
    epilog=examples(
        "dispatcher prune",
        "dispatcher prune --older-than 12h --dry-run",
        "dispatcher prune --older-than 1h --state succeeded",
    )
)
@click.option(
    "--older-than",
    type=DURATION,
    metavar="DURATION",
    help="Finished at least this long ago [default: output.retention, 30d].",
)
@click.option(
    "--state",
    multiple=True,
    type=click.Choice(sorted(state.value for state in FINISHED)),
    metavar="STATE",
    help=f"Only this state. Repeatable. {', '.join(sorted(FINISHED))}.",
)
@click.option("--dry-run", is_flag=True, help="Delete nothing; print how many tasks it would be.")
@json_option
@config_option
def command(
    *, older_than: Milliseconds | None, state: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Delete tasks that finished long ago, with their runs and output files.

    An age below 1s, which means everything that has finished, requires --state.
    """
    config = config_as_owner()
    age = config.output.retention_ms if older_than is None else older_than
    if age is None:
        raise click.UsageError('[output] retention is "never": give an age, e.g. --older-than 30d')
    if age < LEAST_RETENTION and not state and not dry_run:
        wide = f"--older-than {age} deletes all that has finished"
        raise click.UsageError(f"{wide}; name states, e.g. --state succeeded, or try: --dry-run")
    states = frozenset(map(TaskState, state)) or FINISHED
    with Client(config) as store:
        many = store.prunable(older_than_ms=age, states=states)
        if dry_run:
            if as_json:
                print_json({"dry_run": True, "tasks": many})
            else:
                click.echo(f"would delete: {many} tasks, with their runs and output files")
            return
        with bar("deleted", many) as progressed:
            pruned = store.prune(older_than_ms=age, states=states, tell=progressed)
    if as_json:
        print_json({"tasks": pruned.tasks, "output_files": len(pruned.output_paths)})
    else:
        click.echo(f"deleted: {pruned.tasks} tasks, {len(pruned.output_paths)} output files")
