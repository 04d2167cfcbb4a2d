"""What `pause` and `resume` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click

from dispatcher.cli.param_types import TEXT, offered
from dispatcher.cli.printing import print_json


def queues_argument(offer: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the argument that names queues; a shell completes those that `offer` lists."""
    return click.argument(
        "queues",
        type=TEXT,
        metavar="QUEUE...",
        nargs=-1,
        required=True,
        shell_complete=offered(offer),
    )


def print_changes(changed: Mapping[str, bool], words: tuple[str, str], *, as_json: bool) -> None:
    """Print each queue with the first of `words` if it changed, else with the second."""
    if as_json:
        print_json([{"queue": queue, "done": done} for queue, done in changed.items()])
        return
    for queue, done in changed.items():
        click.echo(f"{queue} {words[0] if done else words[1]}")
