"""`dispatcher hold`: park tasks until `release`."""

import click
from click.core import ParameterSource

from dispatcher.cli.intents import request
from dispatcher.cli.options import config_option, examples, json_option, reason_option
from dispatcher.cli.selection import acting, selected
from dispatcher.model import Intent
from dispatcher.selection import CHANGES, Selection


@click.command(
    epilog=examples(
        "dispatcher hold 42",
        'dispatcher hold 42 50-60 --reason "disk is full"',
        "dispatcher hold --queue nightly --state ready --state scheduled",
    )
)
@selected(CHANGES[Intent.HOLD])
@reason_option("held by an operator")
@acting
@json_option
@config_option
def command(*, selection: Selection, reason: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Park tasks until they are released. Running ones are ended: their whole process tree.

    Name them by id, by range (12-40), or by filters, all of which must match. A range or filter
    takes tasks that wait or run.

    A task whose run is ending already is held once that run has ended. A finished task stays as it
    is, exit code 1. A held task, named by its id, gets the new reason if one is given.
    """
    source = click.get_current_context().get_parameter_source("reason")
    given = None if source is ParameterSource.DEFAULT else reason
    request(selection, Intent.HOLD, given, dry_run=dry_run, yes=yes, as_json=as_json)
