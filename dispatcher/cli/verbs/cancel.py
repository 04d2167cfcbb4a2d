"""`dispatcher cancel`: cancel tasks for good."""

import click

from dispatcher.cli.intents import request
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.selection import acting, selected
from dispatcher.model import Intent
from dispatcher.selection import CHANGES, Selection


@click.command(
    epilog=examples(
        "dispatcher cancel 42",
        "dispatcher cancel 42 50-60",
        "dispatcher cancel --queue nightly --state ready --dry-run",
        "dispatcher cancel --label team=data --older-than 2d",
    )
)
@selected(CHANGES[Intent.CANCEL])
@acting
@json_option
@config_option
def command(*, selection: Selection, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Cancel tasks. Running ones are ended: their whole process tree.

    Name them by id, by range (12-40), or by filters, all of which must match. A range or filter
    takes unfinished tasks only.

    A task whose run is ending already is cancelled once that run has ended. A cancelled task stays
    cancelled; one that has succeeded or failed stays as it is, exit code 1.
    """
    request(selection, Intent.CANCEL, dry_run=dry_run, yes=yes, as_json=as_json)
