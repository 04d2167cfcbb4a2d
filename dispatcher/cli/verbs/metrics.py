"""`dispatcher metrics`: figures for Prometheus."""

from pathlib import Path

import click

from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples
from dispatcher.cli.param_types import FILE
from dispatcher.errors import DispatcherError, cannot_write
from dispatcher.host import files
from dispatcher.metrics import exposition


@click.command(
    epilog=examples(
        "dispatcher metrics", "dispatcher metrics --textfile /var/lib/node_exporter/dispatcher.prom"
    )
)
@click.option(
    "--textfile",
    type=FILE,
    metavar="PATH",
    help="Write them to this file in one step, for the node exporter.",
)
@config_option
def command(*, textfile: Path | None) -> None:
    """Print figures in the Prometheus text format; docs/metrics.md explains each.

    Without a daemon only the store's figures are printed, and dispatcher_up is 0.
    """
    with open_client() as store:
        status, outcomes = store.status(), store.outcomes()

    text = exposition(status, outcomes)
    if textfile is None:
        click.echo(text, nl=False)
    else:
        _replace(textfile, text)


def _replace(file: Path, text: str) -> None:
    """Write a file that others read at any moment, in one step, readable for everybody."""
    try:
        files.replace(file, text, mode=0o644)  # the node exporter is another user
    except OSError as error:
        remedy = "its directory must be there, and let this user write"
        raise cannot_write(f"cannot write {file}", error, remedy, DispatcherError) from error
