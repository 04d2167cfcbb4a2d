"""`dispatcher check-config` and `config`: whether the configuration is right, and what holds."""

from __future__ import annotations

from collections.abc import Iterator

import click

from dispatcher.cli.options import (
    config_option,
    examples,
    json_option,
    print_json,
    read_configuration,
)
from dispatcher.config.config import Config, Mistaken
from dispatcher.errors import ConfigError
from dispatcher.host import owner


@click.command("check-config", epilog=examples("dispatcher check-config --config new.toml"))
@json_option
@config_option
def check_config(*, as_json: bool) -> None:
    """Read the configuration, say every mistake with its remedy, and exit 78 if there is one."""
    from dispatcher.config import environment_file  # noqa: PLC0415 - nobody else's import time

    mistakes: list[str] = []
    try:
        config = read_configuration()
    except Mistaken as error:
        config, mistakes = error.rest, [*error.mistakes]
    mistakes += [*_closed_to_its_user(config), *environment_file.mistakes(config)]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
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


def _closed_to_its_user(config: Config) -> Iterator[str]:
    """Yield what is wrong where root may read the file, and the user whose daemon reads it not."""
    user = owner.foreign_owner(config.state_dir, config.others)
    if user is not None and config.file is not None and not owner.may_read(user, config.file):
        yield (
            f"{config.file}: {user}, whose state directory it names, may not read it;"
            f" chgrp it to that user's group and chmod 640, and let the user enter its directory"
        )


@click.command(
    epilog=examples(
        "dispatcher config                                # what holds, and why",
        "dispatcher config --commented > dispatcher.toml  # a file to start from",
        "dispatcher config --schema > dispatcher.schema.json",
    )
)
@click.option("--commented", is_flag=True, help="Print a file with every key, explained.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of the file, for editors.")
@json_option
@config_option
def config(*, commented: bool, schema: bool, as_json: bool) -> None:
    """Print the value of every key, and whether the file gives it, or the default, or the host."""
    from dispatcher.config import reference  # noqa: PLC0415 - nobody else's import time
    from dispatcher.config.file import written  # noqa: PLC0415

    if commented and schema:
        raise click.UsageError("--commented and --schema are two things; ask for one")
    if commented:
        click.echo(reference.commented_file(), nl=False)
    elif schema:
        print_json(reference.schema())
    else:
        values = list(reference.effective(read_configuration()))
        if as_json:
            print_json(
                {
                    f"{key.section}.{key.name}": {"value": value, "from": source}
                    for key, value, source in values
                }
            )
        else:
            rows = [
                (f"{k.section}.{k.name}", "(none)" if v is None else written(v), why)
                for k, v, why in values
            ]
            from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

            print_table(("key", "value", "from"), rows)
