"""`dispatcher resume`: allow claims from paused queues again."""

import click

from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option, queues_options
from dispatcher.cli.printing import print_queue_changes
from dispatcher.client import Client


@click.command(epilog=examples("dispatcher resume nightly", "dispatcher resume --all"))
@queues_options("paused", "Every paused queue.")
@json_option
@config_option
def command(*, queues: tuple[str, ...], as_json: bool) -> None:
    """Allow claims from these queues again."""
    with open_client() as store:
        changed = {queue: store.resume(queue) for queue in queues or _paused(store)}
    print_queue_changes(changed, ("resumed", "was not paused"), as_json=as_json)
    if not changed:
        click.echo("dispatcher: no queue is paused", err=True)


def _paused(store: Client) -> list[str]:
    with store.store.snapshot():
        return [one.queue for one in store.store.paused_queues()]
