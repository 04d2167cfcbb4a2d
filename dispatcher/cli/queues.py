"""`dispatcher pause` and `resume`: whether anybody may claim from a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click

from dispatcher.cli.options import (
    TEXT,
    client,
    config_option,
    examples,
    json_option,
    offered,
    print_json,
    reason_option,
)
from dispatcher.errors import did_you_mean
from dispatcher.submission import check_queue


def _many(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.argument(
        "queues",
        type=TEXT,
        metavar="QUEUE...",
        nargs=-1,
        required=True,
        shell_complete=offered(what),
    )


@click.command(epilog=examples("dispatcher pause nightly", "dispatcher pause ci --reason upgrade"))
@_many("queues")
@reason_option("paused by an operator")
@json_option
@config_option
def pause(*, queues: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Let nothing of these queues be claimed. What runs goes on; submitting stays possible.

    It holds for every node, and until `resume`. `status` and `why` say it.
    """
    for queue in queues:
        check_queue(queue)
    with client() as store:
        known = store.queues()
        for queue in queues:
            if queue not in known:
                near = did_you_mean(queue, known) or "; it holds for those that come"
                click.echo(f"dispatcher: no task is in queue {queue!r}{near}", err=True)
        changed = {queue: store.pause(queue, reason) for queue in queues}
    _report(changed, ("paused", "was paused already"), as_json=as_json)


@click.command(epilog=examples("dispatcher resume nightly"))
@_many("paused")
@json_option
@config_option
def resume(*, queues: tuple[str, ...], as_json: bool) -> None:
    """Let tasks of these queues be claimed again."""
    with client() as store:
        changed = {queue: store.resume(queue) for queue in queues}
    _report(changed, ("resumed", "was not paused"), as_json=as_json)


def _report(changed: Mapping[str, bool], words: tuple[str, str], *, as_json: bool) -> None:
    """Print of each queue whether anything had to be done."""
    if as_json:
        print_json([{"queue": queue, "done": done} for queue, done in changed.items()])
        return
    for queue, done in changed.items():
        click.echo(f"{queue} {words[0] if done else words[1]}")
