"""`dispatcher backup`: copy the database while everything runs."""

from pathlib import Path

import click

from dispatcher.cli import render
from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.opening import database_of
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import FILE
from dispatcher.cli.printing import print_json
from dispatcher.client import PATIENCE
from dispatcher.store.backup import back_up


@click.command(
    epilog=examples(
        "dispatcher backup /srv/backup/tasks.db",
        "dispatcher backup --overwrite /srv/backup/last-night.db",
    )
)
@click.argument("file", metavar="FILE", type=FILE)
@click.option(
    "--overwrite", is_flag=True, help="Replace an older backup, FILE, once the copy is whole."
)
@json_option
@config_option
def command(*, file: Path, overwrite: bool, as_json: bool) -> None:
    """Copy the database into FILE while everything runs, as it is at one moment.

    Every page of the copy is checked before the copy gets its name: FILE is whole, or missing. It
    holds the secrets of tasks, and only its owner may read it. It holds no output of runs: that is
    in plain files in the state directory.
    """
    database = database_of(config_as_owner(whole=False))
    done = back_up(database, file.absolute(), overwrite=overwrite, patience=PATIENCE)
    if as_json:
        print_json(
            {
                "file": str(file),
                "bytes": done.bytes,
                "tasks": done.tasks,
                "schema": done.schema,
                "store_id": done.identity,
            }
        )
    else:
        click.echo(f"{render.plain(str(file))}: {done.tasks} tasks, {render.size(done.bytes)}")
