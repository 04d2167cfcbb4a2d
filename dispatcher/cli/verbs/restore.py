"""`dispatcher restore`: replace the database by a backup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from dispatcher.cli import render
from dispatcher.cli.configuration import config_as_owner, database_of
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import FILE
from dispatcher.cli.printing import print_json
from dispatcher.config.config import Config
from dispatcher.store.open import (
    lock_database,
    refuse_place,
    remembered_identity,
)
from dispatcher.times import wall_clock


@click.command(epilog=examples("dispatcher restore /srv/backup/tasks.db"))
@click.argument("file", metavar="FILE", type=FILE)
@json_option
@config_option
def command(*, file: Path, as_json: bool) -> None:
    """Put FILE, a backup, in the place of the database. No daemon may run.

    What was there stays beside it under a dated name. What the backup does not know was done is
    done again: it becomes another store, and ids of tasks and fences go on beyond those that were
    given, so that none means two things. What ran when it was made is settled by the next daemon,
    once nothing of it lives on this host; a claim by hand keeps its lock.
    """
    from dispatcher.store.restore import restore as put_back  # noqa: PLC0415 - who asks for it

    config = config_as_owner(whole=False)
    database = database_of(config)
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


def _traces(config: Config) -> Iterator[str]:
    """Yield what tells of runs whatever the database knows: outputs, the executor's journal."""
    if config.output_dir.is_dir():
        yield from (path.name for path in config.output_dir.glob("*.log"))
    journal = config.state_dir / "executor.journal"
    if journal.is_file():
        yield journal.read_text("utf-8", "replace")
