"""`dispatcher retry`: make tasks ready again."""

import click

from dispatcher.cli.intents import request
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.selection import acting, selected
from dispatcher.model import Intent
from dispatcher.selection import CHANGES, Selection


@click.command(
    epilog=examples(
        "dispatcher retry 42",
        "dispatcher retry --queue nightly --dry-run",
        "dispatcher retry 50-60 --state failed --state cancelled",
    )
)
@selected(CHANGES[Intent.RETRY], usual=" [default: failed]")
@acting
@json_option
@config_option
def command(*, selection: Selection, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make failed, cancelled or held tasks ready again, with all their attempts.

    Name them by id, by range (12-40), or by filters, all of which must match. A range or filter
    takes failed tasks, unless --state names others.

    A task whose run is ending becomes ready once that run has ended.
    """
    request(selection, Intent.RETRY, dry_run=dry_run, yes=yes, as_json=as_json)
