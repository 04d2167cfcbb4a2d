"""`dispatcher resume`: allow claims from paused queues again."""

from __future__ import annotations

import click

from dispatcher.cli.configuration import open_client
from dispatcher.cli.options import config_option, examples, json_option, queues_argument
from dispatcher.cli.printing import print_queue_changes


@click.command(epilog=examples("dispatcher resume nightly"))
@queues_argument("paused")
@json_option
@config_option
def command(*, queues: tuple[str, ...], as_json: bool) -> None:
    """Allow claims from these queues again."""
    with open_client() as store:
        changed = {queue: store.resume(queue) for queue in queues}
    print_queue_changes(changed, ("resumed", "was not paused"), as_json=as_json)
