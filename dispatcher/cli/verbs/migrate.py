"""`dispatcher migrate`: upgrade the database's schema while nothing uses it."""

from contextlib import closing

import click

from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json
from dispatcher.client import PATIENCE
from dispatcher.config.config import Config
from dispatcher.exit_codes import ExitCode
from dispatcher.store import migrations
from dispatcher.store.api import Store
from dispatcher.store.examine import examine
from dispatcher.store.open import (
    database_path,
    is_there,
    lock_database,
    open_store,
    server_of,
)


@click.command(epilog=examples("dispatcher migrate --check", "dispatcher migrate"))
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if an upgrade is due.")
@json_option
@config_option
def command(*, check: bool, as_json: bool) -> int:
    """Bring the database up to date with this dispatcher, and mend its counts if they are wrong.

    The daemon does this when it starts. Other verbs refuse an older database, because a daemon of
    the older version may be using it. Make a backup first: there is no way back to the older
    version.
    """
    config = config_as_owner()
    before, wanted = _schema(config)
    mended = False
    if not check:
        with closing(lock_database(config.store_url, state_dir=config.state_dir)):
            mended = _mended(config)
    pending = check and before != wanted
    if as_json:
        after = before if check else wanted
        print_json({"before": before, "now": after, "wanted": wanted})
    elif before == wanted:
        click.echo(f"schema {wanted}: up to date")
    else:
        was = "no database yet" if before is None else f"schema {before}"
        click.echo(f"{was}; {'to do' if pending else 'now'}: schema {wanted}")
    if mended:
        click.echo("dispatcher: the counts of tasks were wrong; they are right now", err=True)
    return ExitCode.REFUSED if pending else ExitCode.OK


def _schema(config: Config) -> tuple[int | None, int]:
    """Return the database's schema, None without one, and the schema of this dispatcher."""
    path = database_path(config.store_url)
    if path is None:
        return _schema_on_server(config)
    if not is_there(path):
        return None, len(migrations.MIGRATIONS)
    found = examine(path, patience=PATIENCE)
    if found.schema > found.known:  # it raises, with the remedy
        _open(config).close()
    return found.schema, max(found.schema, found.known)


def _schema_on_server(config: Config) -> tuple[int | None, int]:
    from dispatcher.store import shared  # noqa: PLC0415 - with the driver

    known = len(migrations.MIGRATIONS)
    server = server_of(config.store_url, config.store_schema, patience=PATIENCE)
    found = shared.version(server)
    if found is None or found <= known:
        return found, known
    # It raises, with the remedy, unless this dispatcher may work with it.
    _open(config).close()
    return found, found


def _mended(config: Config) -> bool:
    """Upgrade the store; return whether its counts were wrong, which are mended."""
    with closing(_open(config, upgrade=True)) as store, store.transaction():
        return store.mend_counts()


def _open(config: Config, *, upgrade: bool = False) -> Store:
    return open_store(
        config.store_url,
        schema=config.store_schema,
        state_dir=config.state_dir,
        patience=PATIENCE,
        upgrade=upgrade,
        made=_report_made,
    )


def _report_made(name: str, others: tuple[str, ...]) -> None:
    beside = f"; other schemas with stores: {', '.join(others)}" if others else ""
    click.echo(f"dispatcher: made a store in {name}{beside}", err=True)
