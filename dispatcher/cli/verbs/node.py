"""`dispatcher node`: drain a node, let it take work again, or forget it."""

from collections.abc import Callable, Mapping

import click

from dispatcher.cli import render
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import TEXT, offered
from dispatcher.cli.printing import print_json
from dispatcher.client import Client


@click.command(
    epilog=examples(
        "dispatcher node drain web-2 --reason 'new kernel'",
        "dispatcher node resume web-2",
        "dispatcher node forget 1f2e3d4c   # by the beginning of its id",
        "dispatcher node forget --dead web-2   # its host is off for good",
    )
)
@click.argument("action", type=click.Choice(["drain", "resume", "forget"]))
@click.argument(
    "nodes", metavar="NODE...", nargs=-1, required=True, shell_complete=offered("nodes")
)
@click.option(
    "--reason",
    type=TEXT,
    metavar="TEXT",
    help="Why it is drained; `nodes`, `status` and `why` print it.",
)
@click.option(
    "--dead",
    is_flag=True,
    help="Forget one that holds claims, too: you vouch that its host is off, so that nothing runs"
    " there. Its claims are settled, as declared or `orphaned`.",
)
@json_option
@config_option
def command(
    *, action: str, nodes: tuple[str, ...], reason: str | None, dead: bool, as_json: bool
) -> None:
    """Drain a node: it takes no more work, and what runs there goes on. `resume` ends that.

    Forget one that is gone for good: only when it holds no claims any more, or with --dead. NODE is
    a name of `dispatcher nodes`, a hostname, an id, or the beginning of an id.
    """
    if reason is not None and action != "drain":
        raise click.UsageError(f"--reason: {action} has none; leave it out")
    if reason is not None and not reason.strip():
        raise click.UsageError("--reason: is empty; give a reason, or leave it out")
    if dead and action != "forget":
        raise click.UsageError(f"--dead: {action} has none; leave it out")
    with open_client() as store:
        do = _forget_dead if dead else _ACTIONS[action]
        answers = {name: do(store, name, reason or "drained by an operator") for name in nodes}
    if as_json:
        print_json([{"node": name, "done": done} for name, (done, _) in answers.items()])
        return
    for name, (_, text) in answers.items():
        click.echo(f"{render.plain(name)} {text}")


def _drain(store: Client, name: str, reason: str) -> tuple[bool, str]:
    running = store.drain_node(name, reason).running
    runs = {0: "nothing runs there", 1: "a run goes on"}.get(running, f"{running} runs go on")
    return True, f"takes no more work; {runs}"


def _resume(store: Client, name: str, _: str) -> tuple[bool, str]:
    done = store.resume_node(name)
    return done, "takes work again" if done else "was not draining"


def _forget_dead(store: Client, name: str, reason: str) -> tuple[bool, str]:
    return _forget(store, name, reason, dead=True)


def _forget(store: Client, name: str, _: str, *, dead: bool = False) -> tuple[bool, str]:
    host = store.forget_node(name, dead=dead).name
    return True, "is forgotten" if name == host else f"on {render.plain(host)} is forgotten"


_ACTIONS: Mapping[str, Callable[[Client, str, str], tuple[bool, str]]] = {
    "drain": _drain,
    "resume": _resume,
    "forget": _forget,
}
