"""`dispatcher cancel`: cancel tasks for good."""

from __future__ import annotations

import click

from dispatcher.cli.intents import request
from dispatcher.cli.options import config_option, examples, json_option, task_ids_argument
from dispatcher.model import Intent


@click.command(epilog=examples("dispatcher cancel 42", "dispatcher cancel 42 43 44"))
@task_ids_argument
@json_option
@config_option
def command(*, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Cancel tasks. Running ones are ended: their whole process tree.

    A task whose run is ending already is cancelled once that run has ended. A cancelled task stays
    cancelled; a task that had succeeded or failed stays so, exit code 1.
    """
    request(task_ids, Intent.CANCEL, as_json=as_json)
