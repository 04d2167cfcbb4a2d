"""`dispatcher hold`: park tasks until `release`."""

from __future__ import annotations

import click

from dispatcher.cli.intents import request
from dispatcher.cli.options import (
    config_option,
    examples,
    json_option,
    reason_option,
    task_ids_argument,
)
from dispatcher.model import Intent


@click.command(epilog=examples("dispatcher hold 42", 'dispatcher hold 42 --reason "disk is full"'))
@task_ids_argument
@reason_option("held by an operator")
@json_option
@config_option
def command(*, task_ids: tuple[int, ...], reason: str, as_json: bool) -> None:
    """Park tasks until they are released. Running ones are ended: their whole process tree.

    A task whose run is ending already is held once that run has ended. A finished task stays as it
    is, exit code 1.
    """
    request(task_ids, Intent.HOLD, reason, as_json=as_json)
