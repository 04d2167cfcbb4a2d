"""`dispatcher release`: make held tasks ready."""

import click

from dispatcher.cli.intents import request
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.selection import acting, selected
from dispatcher.model import Intent, TaskState
from dispatcher.selection import CHANGES, Selection


@click.command(
    epilog=examples(
        "dispatcher release 42",
        "dispatcher release 42 50-60",
        "dispatcher release --queue nightly",
    )
)
@selected(CHANGES[Intent.RELEASE], offers={TaskState.HELD})
@acting
@json_option
@config_option
def command(*, selection: Selection, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make held tasks ready, with the attempts they have left; `retry` restores all of them.

    Name them by id, by range (12-40), or by filters, all of which must match. A range or filter
    takes held tasks, and running ones that are going to be held; one that waits for its parents
    is released by its id, or with --state waiting, and runs without them.

    A task that is going to be held becomes ready once its run has ended.
    """
    request(selection, Intent.RELEASE, dry_run=dry_run, yes=yes, as_json=as_json)
