"""`dispatcher pause` and `resume`: whether anybody may claim from a queue."""

from __future__ import annotations

import click

from dispatcher.cli.options import client, config_option, examples, offered, reason_option
from dispatcher.submission import check_name

_many_queues = click.argument(
    "queues", metavar="QUEUE...", nargs=-1, required=True, shell_complete=offered("queues")
)


@click.command(epilog=examples("dispatcher pause nightly", "dispatcher pause ci --reason upgrade"))
@_many_queues
@reason_option("paused by an operator")
@config_option
def pause(*, queues: tuple[str, ...], reason: str) -> None:
    """Let nothing of these queues be claimed. What runs goes on; submitting stays possible.

    It holds for every node, and until `resume`. `status` and `why` say it.
    """
    for queue in queues:
        check_name("queue", queue)
    with client() as store:
        for queue in queues:
            new = store.pause(queue, reason)
            click.echo(f"{queue} {'paused' if new else 'was paused already'}")


@click.command(epilog=examples("dispatcher resume nightly"))
@_many_queues
@config_option
def resume(*, queues: tuple[str, ...]) -> None:
    """Let tasks of these queues be claimed again."""
    with client() as store:
        for queue in queues:
            click.echo(f"{queue} {'resumed' if store.resume(queue) else 'was not paused'}")
