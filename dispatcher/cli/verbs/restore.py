"""`dispatcher restore`: replace the database with a backup."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click

from dispatcher.cli import render
from dispatcher.cli.configuration import config_as_owner, database_of
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import FILE
from dispatcher.cli.printing import print_json
from dispatcher.config.config import Config
from dispatcher.store.filesystems import refuse_place
from dispatcher.store.open import lock_database, remembered_identity
from dispatcher.store.restore import Restored
from dispatcher.store.restore import restore as put_back
from dispatcher.times import wall_clock


@click.command(epilog=examples("dispatcher restore /srv/backup/tasks.db"))
@click.argument("file", metavar="FILE", type=FILE)
@json_option
@config_option
def command(*, file: Path, as_json: bool) -> None:
    """Replace the database with FILE, a backup. No daemon may run.

    The old database is kept next to it under a dated name. Work that was done after the backup is
    done again. The database becomes another store, whose task ids and fences continue beyond all
    earlier ones: no id or fence is used twice. The next daemon settles the runs that the backup has
    open, once none of their processes lives on this host; a local claim keeps its lock.
    """
    config = config_as_owner(whole=False)
    database = database_of(config)
    refuse_place(database)
    with closing(lock_database(config.store_url, state_dir=config.state_dir)):
        done = put_back(
            database,
            file.absolute(),
            traces=_traces(config),
            remembered=remembered_identity(config.state_dir),
            now=wall_clock(),
        )
    if as_json:
        print_json(
            {
                "database": str(database),
                "from": str(file),
                "kept": None if done.kept is None else str(done.kept),
                "tasks": done.tasks,
                "running": done.running,
                "next_id": done.next_id,
                "store_id": done.identity,
            }
        )
    else:
        _print(database, done)


def _print(database: Path, done: Restored) -> None:
    click.echo(f"{render.plain(str(database))}: {done.tasks} tasks, the next one is {done.next_id}")
    if done.kept is not None:
        click.echo(f"the old database is kept: {render.plain(str(done.kept))}")
    if done.running:
        were = "was" if done.running == 1 else "were"
        click.echo(
            f"{done.running} {were} running: the daemon settles its runs once nothing of them"
            " lives; a local claim keeps its lock"
        )


def _traces(config: Config) -> Iterator[str]:
    """Yield texts that name runs, from outside the database: output files, the journal."""
    if config.output_dir.is_dir():
        yield from (path.name for path in config.output_dir.glob("*.log"))
    journal = config.state_dir / "executor.journal"
    if journal.is_file():
        yield journal.read_text("utf-8", "replace")
