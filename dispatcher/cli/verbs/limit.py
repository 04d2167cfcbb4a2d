"""`dispatcher limit`: close a named limit, or open it again."""

import click

from dispatcher.cli import render
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import TEXT, UNTIL, offered
from dispatcher.cli.printing import print_json
from dispatcher.client import Client
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import WallTime


@click.command(
    epilog=examples(
        "dispatcher limit close provider --until 2h --reason 'over its budget'",
        "dispatcher limit close provider --until 06:00",
        "dispatcher limit open provider",
    )
)
@click.argument("action", type=click.Choice(["close", "open"]))
@click.argument(
    "names",
    metavar="LIMIT...",
    nargs=-1,
    required=True,
    type=TEXT,
    shell_complete=offered("limits"),
)
@click.option(
    "--until",
    type=UNTIL,
    metavar="TIME",
    help='When it opens by itself: "2h" from now, the next "23:00", or a date [default: never].',
)
@click.option(
    "--reason",
    type=TEXT,
    metavar="TEXT",
    help="Why it is closed; `limits`, `status` and `why` print it.",
)
@json_option
@config_option
def command(
    *, action: str, names: tuple[str, ...], until: int | None, reason: str | None, as_json: bool
) -> None:
    """Close named limits: nothing that takes one starts. What runs goes on. `open` ends that.

    It holds on every node. The limit of a queue, which its breaker closes, is `queue:NAME`.
    """
    if action == "open" and (reason is not None or until is not None):
        option = "--reason" if until is None else "--until"
        raise click.UsageError(f"{option}: open has none; leave it out")
    if reason is not None and not reason.strip():
        raise click.UsageError("--reason: is empty; give a reason, or leave it out")
    with open_client() as store:
        if action == "close":
            for name in names:
                _close(store, name, until, reason or "closed by an operator")
            changed = dict.fromkeys(names, True)
        else:
            changed = {name: store.open_limit(name) for name in names}
    if as_json:
        print_json([{"limit": name, "done": done} for name, done in changed.items()])
        return
    for name, done in changed.items():
        text = "is closed" if action == "close" else "is open" if done else "was open already"
        click.echo(f"{render.plain(name)} {text}")


def _close(store: Client, name: str, until: int | None, reason: str) -> None:
    if isinstance(until, Milliseconds):
        store.close_limit(name, reason, for_ms=until)
    else:
        store.close_limit(name, reason, until=None if until is None else WallTime(until))
