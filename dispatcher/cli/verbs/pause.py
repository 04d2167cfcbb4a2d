"""`dispatcher pause`: stop all claims from queues."""

import click

from dispatcher.cli.opening import open_client
from dispatcher.cli.options import (
    config_option,
    examples,
    json_option,
    queues_options,
    reason_option,
)
from dispatcher.cli.printing import print_queue_changes
from dispatcher.errors import did_you_mean
from dispatcher.submission import check_queue


@click.command(
    epilog=examples(
        "dispatcher pause nightly",
        "dispatcher pause ci --reason upgrade",
        "dispatcher pause --all --reason maintenance",
    )
)
@queues_options("queues", "Every queue that has a task or a section in the configuration.")
@reason_option("paused by an operator")
@json_option
@config_option
def command(*, queues: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Stop all claims from these queues. Running tasks go on; submitting stays possible.

    The pause lasts on every node until `resume`; `status` and `why` show it. A queue that first
    appears after `pause --all` is not paused.
    """
    for queue in queues:
        check_queue(queue)
    with open_client() as store:
        known = store.queues()
        for queue in queues:
            if queue not in known:
                near = did_you_mean(queue, known) or "; it holds for those that come"
                click.echo(f"dispatcher: no task is in queue {queue!r}{near}", err=True)
        changed = {queue: store.pause(queue, reason) for queue in queues or sorted(known)}
    print_queue_changes(changed, ("paused", "was paused already"), as_json=as_json)
