"""`dispatcher restore`: replace the database with a backup, or own what a server restored."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click

from dispatcher.cli import render
from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.opening import database_of
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import FILE
from dispatcher.cli.printing import print_json
from dispatcher.client import PATIENCE
from dispatcher.config.config import Config
from dispatcher.store.filesystems import refuse_place
from dispatcher.store.open import lock_database, remembered_identity, server_of
from dispatcher.store.restore import Restored
from dispatcher.store.restore import restore as put_back
from dispatcher.store.schema import is_shared
from dispatcher.times import wall_clock


@click.command(
    epilog=examples("dispatcher restore /srv/backup/tasks.db", "dispatcher restore --complete")
)
@click.argument("file", metavar="[FILE]", type=FILE, required=False)
@click.option(
    "--complete",
    is_flag=True,
    help="On a server: the copy lacks nothing, as nobody wrote after it; ids and fences go on.",
)
@json_option
@config_option
def command(*, file: Path | None, complete: bool, as_json: bool) -> None:
    """Replace the database with FILE, a backup. No daemon may run.

    The old database is kept next to it under a dated name. Work that was done after the backup is
    done again. The database becomes another store, whose task ids and fences continue beyond all
    earlier ones: no id or fence is used twice. The next daemon settles the runs that the backup has
    open, once none of their processes lives on this host; a local claim keeps its lock.

    A store on a server is restored by the server's tools, such as pg_restore. Afterwards, without
    FILE, this makes it another store in the same way; until then every verb refuses it. Nothing is
    claimed at first, as workers of claims that the copy lacks may live: see status.
    """
    config = config_as_owner(whole=False)
    is_on_server = is_shared(config.store_url)
    if is_on_server and file is not None:
        database_of(config)  # it raises, with the remedy
    if not is_on_server and (file is None or complete):
        wrong = "--complete is for a store on a server" if complete else "FILE is missing"
        raise click.UsageError(f"{wrong}; name a backup of the database file")
    name, done = _on_server(config, complete) if file is None else _of_file(config, file)
    if as_json:
        print_json(
            {
                "database": name,
                "from": None if file is None else str(file),
                "kept": None if done.kept is None else str(done.kept),
                "tasks": done.tasks,
                "running": done.running,
                "next_id": done.next_id,
                "store_id": done.identity,
            }
        )
    else:
        _print(name, done)


def _of_file(config: Config, file: Path) -> tuple[str, Restored]:
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
    return str(database), done


def _on_server(config: Config, complete: bool) -> tuple[str, Restored]:
    server = server_of(config.store_url, config.store_schema, patience=PATIENCE)
    from dispatcher.store.restore_shared import restore_shared  # noqa: PLC0415 - with the driver

    remembered = remembered_identity(config.state_dir)
    done = restore_shared(server, remembered=remembered, complete=complete, now=wall_clock())
    return server.name, done


def _print(name: str, done: Restored) -> None:
    click.echo(f"{render.plain(name)}: {done.tasks} tasks, the next one is {done.next_id}")
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
