"""`dispatcher check-config`: report every mistake of the configuration."""

from collections.abc import Iterator
from contextlib import suppress

import click

from dispatcher.cli.configuration import config_as_caller
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json
from dispatcher.client import Client
from dispatcher.config import environment_file
from dispatcher.config.config import Config, Mistaken
from dispatcher.errors import ConfigError, DispatcherError
from dispatcher.host import owner, user_change
from dispatcher.operations.limits import gone_text
from dispatcher.store.open import database_path, remembered_identity

#: Seconds to wait for the store, which only adds a remark.
PATIENCE = 0.5


@click.command(epilog=examples("dispatcher check-config --config new.toml"))
@json_option
@config_option
def command(*, as_json: bool) -> None:
    """Report every mistake of the configuration with its remedy; exit 78 if it has any."""
    mistakes: list[str] = []
    try:
        config = config_as_caller(warn=False)
        mistakes += config.mistakes
    except Mistaken as error:
        config, mistakes = error.rest, [*error.mistakes]
    if config.schedules:
        from dispatcher import schedule_tasks  # noqa: PLC0415 - few configurations have schedules

        mistakes += schedule_tasks.mistakes(config)
    mistakes += [*_closed_to_daemon(config), *environment_file.read_all(config).unread]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    _print_gone(config)
    source = str(config.file) if config.file is not None else None
    if as_json:
        print_json(
            {
                "file": source,
                "state_dir": str(config.state_dir),
                "runtime_dir": str(config.runtime_dir),
                "store_url": config.store_url,
                "slots": config.slots,
            }
        )
    else:
        click.echo(f"{source or 'built-in defaults'}: ok")


def _print_gone(config: Config) -> None:
    """Print which limits unfinished tasks take that are not configured, if a store is there."""
    path = database_path(config.store_url)
    if owner.foreign_owner(config.state_dir, config.other_places) is not None:
        return
    if not (path.exists() if path is not None else remembered_identity(config.state_dir)):
        return
    with suppress(DispatcherError), Client(config, patience=PATIENCE) as store:
        for name in store.unconfigured_limits():
            click.echo(f"dispatcher: {gone_text(name)}", err=True)


def _closed_to_daemon(config: Config) -> Iterator[str]:
    """Yield the mistake of a file that root may read, and the daemon's user may not."""
    user = owner.foreign_owner(config.state_dir, config.other_places)
    if user is not None and config.file is not None and not user_change.may_read(user, config.file):
        yield (
            f"{config.file}: {user}, whose state directory it names, may not read it;"
            f" chgrp it to that user's group and chmod 640, and let the user enter its directory"
        )
