"""`dispatcher retry`: make tasks ready again."""

from __future__ import annotations

import click

from dispatcher.cli.intents import request
from dispatcher.cli.options import config_option, examples, json_option, task_ids_argument
from dispatcher.model import Intent


@click.command(epilog=examples("dispatcher retry 42"))
@task_ids_argument
@json_option
@config_option
def command(*, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Make failed, cancelled or held tasks ready again, with all their attempts.

    A task whose run is ending becomes ready once that run has ended.
    """
    request(task_ids, Intent.RETRY, as_json=as_json)
