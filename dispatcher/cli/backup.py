"""`dispatcher backup` and `restore`: the database copied while all go on, a copy put in place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from dispatcher.cli import render
from dispatcher.cli.options import (
    FILE,
    config_option,
    configuration,
    examples,
    json_option,
    print_json,
)
from dispatcher.client import PATIENCE
from dispatcher.config.config import Config
from dispatcher.store.open import (
    database_path,
    lock_database,
    refuse_place,
    remembered_identity,
)
from dispatcher.times import wall_clock


@click.command(
    epilog=examples(
        "dispatcher backup /srv/backup/tasks.db",
        "dispatcher backup --overwrite /srv/backup/last-night.db",
    )
)
@click.argument("file", metavar="FILE", type=FILE)
@click.option(
    "--overwrite", is_flag=True, help="Replace FILE, an older backup, once the copy is whole."
)
@json_option
@config_option
def backup(*, file: Path, overwrite: bool, as_json: bool) -> None:
    """Copy the database into FILE while everything runs, as it is at one moment.

    Every page of the copy is read and checked before it gets its name: FILE is whole, or not there.
    It holds what tasks hold of secrets, and only its owner may read it. Outputs are not in it: they
    are plain files in the state directory.
    """
    from dispatcher.store.backup import back_up  # noqa: PLC0415 - who asks for it

    database = _database(configuration(whole=False))
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


@click.command(epilog=examples("dispatcher restore /srv/backup/tasks.db"))
@click.argument("file", metavar="FILE", type=FILE)
@json_option
@config_option
def restore(*, file: Path, as_json: bool) -> None:
    """Put FILE, a backup, in the place of the database. No daemon may run.

    What was there stays beside it under a dated name. What the backup does not know was done is
    done again: it becomes another store, and ids of tasks and fences go on beyond those that were
    given, so that none means two things. What ran when it was made is settled by the next daemon,
    once nothing of it lives on this host; a claim by hand keeps its lock.
    """
    from dispatcher.store.restore import restore as put_back  # noqa: PLC0415 - who asks for it

    config = configuration(whole=False)
    database = _database(config)
    refuse_place(database)
    with lock_database(config.store_url, state_dir=config.state_dir):
        done = put_back(
            database,
            file.absolute(),
            traces=_traces(config),
            remembered=remembered_identity(config.state_dir),
            now=wall_clock(),
        )
    kept = None if done.kept is None else str(done.kept)
    if as_json:
        print_json(
            {
                "database": str(database),
                "from": str(file),
                "kept": kept,
                "tasks": done.tasks,
                "running": done.running,
                "next_id": done.next_id,
                "store_id": done.identity,
            }
        )
        return
    click.echo(f"{render.plain(str(database))}: {done.tasks} tasks, the next one is {done.next_id}")
    if kept is not None:
        click.echo(f"what was there is kept: {render.plain(kept)}")
    if done.running:
        were = "was" if done.running == 1 else "were"
        click.echo(
            f"{done.running} {were} running: the daemon settles its runs once nothing of them"
            " lives; a claim by hand keeps its lock"
        )


def _database(config: Config) -> Path:
    path = database_path(config.store_url)
    assert path is not None, "no configuration names a store in memory"
    return path


def _traces(config: Config) -> Iterator[str]:
    """Yield what tells of runs whatever the database knows: outputs, the executor's journal."""
    if config.output_dir.is_dir():
        yield from (path.name for path in config.output_dir.glob("*.log"))
    journal = config.state_dir / "executor.journal"
    if journal.is_file():
        yield journal.read_text("utf-8", "replace")
