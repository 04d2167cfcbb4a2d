"""`dispatcher release`: make held tasks ready."""

from __future__ import annotations

import click

from dispatcher.cli.intents import request
from dispatcher.cli.options import config_option, examples, json_option, task_ids_argument
from dispatcher.model import Intent


@click.command(epilog=examples("dispatcher release 42"))
@task_ids_argument
@json_option
@config_option
def command(*, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Make held tasks ready, with the attempts they have left; `retry` restores all of them.

    A task that is going to be held becomes ready once its run has ended.
    """
    request(task_ids, Intent.RELEASE, as_json=as_json)
