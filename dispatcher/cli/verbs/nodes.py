"""`dispatcher nodes`: the nodes of the store."""

import click

from dispatcher.cli import render
from dispatcher.cli.node_text import node_json
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json
from dispatcher.nodes import ID, NodeView
from dispatcher.times import StoreTime


@click.command(epilog=examples("dispatcher nodes", "dispatcher nodes --json | jq '.[].hostname'"))
@json_option
@config_option
def command(*, as_json: bool) -> None:
    """List the nodes that work on the store, with what runs on each.

    A node is a state directory on a host. `silent`: its daemon does not write to the store.
    """
    with open_client() as store:
        standing = store.standing()
    if as_json:
        print_json([node_json(view, standing.calendar) for view in standing.nodes])
        return
    if not standing.nodes:
        click.echo("dispatcher: no daemon has worked on this store yet", err=True)
        return
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    print_table(
        ("HOST", "ID", "STATE", "RUNNING", "SLOTS", "SEEN", "RELEASE", "LABELS", "REASON"),
        (_row(view, standing.now) for view in standing.nodes),
        spare=("RELEASE", "ID"),
    )


def _row(view: NodeView, now: StoreTime) -> tuple[object, ...]:
    node = view.node
    return (
        render.line(f"{view.name} (here)" if view.is_here else view.name),
        node.id[:ID],
        view.state,
        view.running,
        node.slots,
        render.ago(node.seen_at, now),
        render.line(node.release),
        render.line(render.pairs_text(node.labels)),
        render.line(node.draining or ""),
    )
