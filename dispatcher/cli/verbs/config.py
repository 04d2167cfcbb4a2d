"""`dispatcher config`: the value of every key, and where it comes from."""

import click

from dispatcher.cli.configuration import config_as_caller
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json
from dispatcher.config import reference
from dispatcher.config.file import written


@click.command(
    epilog=examples(
        "dispatcher config                                # every value, and its source",
        "dispatcher config --commented > dispatcher.toml  # a file to start from",
        "dispatcher config --schema > dispatcher.schema.json",
    )
)
@click.option("--commented", is_flag=True, help="Print a file with every key, explained.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of the file, for editors.")
@json_option
@config_option
def command(*, commented: bool, schema: bool, as_json: bool) -> None:
    """Print every key's value, and where it comes from: file, default, host or environment."""
    if commented and schema:
        raise click.UsageError("--commented and --schema print different files; give one")
    if commented:
        click.echo(reference.commented_file(), nl=False)
    elif schema:
        print_json(reference.schema())
    else:
        values = list(reference.effective(config_as_caller()))
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
