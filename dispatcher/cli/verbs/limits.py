"""`dispatcher limits`: the named limits."""

import click

from dispatcher.cli import limit_text, render
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json


@click.command(epilog=examples("dispatcher limits", "dispatcher limits --json | jq '.[].held'"))
@json_option
@config_option
def command(*, as_json: bool) -> None:
    """List the named limits, who holds each, and which are closed.

    A limit that no file configures limits nothing, unless it is closed.
    """
    with open_client() as store:
        standing = store.standing()
    views, calendar = standing.limits.values(), standing.calendar
    if as_json:
        print_json(limit_text.limits_json(views, calendar))
        return
    if not views:
        click.echo("dispatcher: there is no limit; add [limits.NAME]", err=True)
        return
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    print_table(
        ("LIMIT", "ALLOWS", "HELD", "STARTED", "BY", "STATE"),
        ([*map(render.line, limit_text.row(view, calendar))] for view in views),
    )
