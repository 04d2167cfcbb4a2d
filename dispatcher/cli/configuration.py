"""The configuration that the command line names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from dispatcher.config.config import Config, Mistaken, find, load
from dispatcher.errors import ConfigError
from dispatcher.host import owner, user_change

if TYPE_CHECKING:
    from dispatcher.config.directories import Found

_NAMED = "dispatcher.config.config"

_REMEDY = (
    "until that is mended, a file with only [node] state_dir in it (and [store] url, if it has one)"
    " reaches the daemon: --config PATH"
)


def name_file(ctx: click.Context, path: str | None) -> None:
    """Remember the file of --config; one after the verb is read last and wins."""
    if path is not None:
        ctx.meta[_NAMED] = path


def named_file() -> str | None:
    """Return the configuration file that the command line names."""
    named: str | None = click.get_current_context().meta.get(_NAMED)
    return named


def config_as_owner(*, whole: bool = True, warn: bool = True) -> Config:
    """Return the configuration as `config_as_caller`; root becomes the state directory's owner.

    Root has read the file and all that the command line names by then, and opens nothing after.
    """
    config = config_as_caller(whole=whole, warn=warn)
    _become_owner(config)
    return config


def _become_owner(config: Config) -> None:
    if (foreign := owner.foreign_owner(config.state_dir, config.other_places)) is not None:
        user_change.become(foreign, config.state_dir)


def config_as_caller(*, whole: bool = True, warn: bool = True) -> Config:
    """Return the configuration of the command line. Raises `ConfigError`.

    The first mistake of each mistaken profile is only printed. Unless the configuration must be
    `whole`, so are other mistakes if the file certainly names the daemon and store: that daemon
    works on with the file of before, and must stay reachable. Without `warn` nothing is printed.
    """
    try:
        config = load(named_file())
    except ConfigError as error:
        if whole:
            raise
        if (rest := _certain_of(error)) is None:
            if isinstance(error.__cause__, OSError):
                raise
            raise ConfigError(f"{error}\n{_REMEDY}") from error
        if warn:
            for line in (*str(error).splitlines(), "going on with the rest of it"):
                click.echo(f"dispatcher: {line}", err=True)
        return rest
    if warn:
        for name, (first, *_) in config.mistaken_profiles.items():
            click.echo(f"dispatcher: {first} (profile {name} is left out)", err=True)
    return config


def _certain_of(error: ConfigError) -> Config | None:
    """Return the configuration of a file with mistakes if it certainly names daemon and store."""
    if isinstance(error, Mistaken):
        return error.rest if error.places_certain else None
    from dispatcher.config import directories  # noqa: PLC0415 - for a file that is not TOML

    return directories.despite_mistakes(named_file(), with_store=True)


def executor_config() -> Found:
    """Return the configuration as `config_as_owner` if its directories are certain.

    Raises `ConfigError` if they are not.
    """
    from dispatcher.config import directories  # noqa: PLC0415 - for the executor alone

    found = directories.load(named_file())
    _become_owner(found.config)
    return found


def applicable_environment() -> Mapping[str, str]:
    """Return the environment without the variables that belong to another configuration file."""
    return find(named_file(), os.environ)[1]
