"""`dispatcher status`: how daemon, executor and queues stand."""

from __future__ import annotations

from typing import Any

import click

from dispatcher.cli import render
from dispatcher.cli.options import config_option, configuration, examples, json_option, print_json
from dispatcher.client import Client
from dispatcher.config import Config
from dispatcher.model import TaskState
from dispatcher.standing import Status


@click.command(epilog=examples("dispatcher status", "dispatcher status --json | jq .states"))
@json_option
@config_option
def status(*, as_json: bool) -> None:
    """Show how daemon, executor and queues stand."""
    config = configuration()
    with Client(config) as store:
        found = status_json(store.status(), config)
    if as_json:
        print_json(found)
    else:
        _print(found)


def status_json(found: Status, config: Config) -> dict[str, Any]:
    """Return the status with every key that other programs rely on."""
    standing, node = found.standing, found.standing.node
    unshown = {"ok", "figures"}
    report = {name: value for name, value in standing.report.items() if name not in unshown}
    states = {
        state: sum(queue.get(state, 0) for queue in found.counts.values()) for state in TaskState
    }
    return {
        "daemon": standing.daemon,
        "daemon_pid": report.pop("pid", None),
        "executor": report.pop("executor", "unknown"),
        "node": {
            "id": report.pop("node", node and node.id),
            "hostname": report.pop("hostname", node and node.hostname),
            "slots": report.pop("slots", node.slots if node else config.slots),
            "seen_at": render.moment(node.seen_at if node else None),
            **report,
        },
        "states": states,
        "paused_queues": {one.queue: one.reason for one in standing.paused},
        "queues": {
            queue: {state: counts.get(state, 0) for state in TaskState}
            for queue, counts in found.counts.items()
        },
    }


def _print(found: dict[str, Any]) -> None:
    node = found["node"]
    click.echo(f"daemon    {found['daemon']}")
    click.echo(f"executor  {found['executor']}")
    click.echo(f"node      {node['id'] or 'none yet'} ({node['hostname'] or 'never started'})")
    busy = f"{node['busy']} of " if "busy" in node else ""
    click.echo(f"slots     {busy}{node['slots']}")
    if node.get("paused"):
        click.echo(f"paused    {render.plain(node['paused'])}")
    for queue, reason in found["paused_queues"].items():
        click.echo(f"queue     {queue} is paused: {render.plain(reason)}")
    if not found["queues"]:
        click.echo("no tasks")
        return
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    click.echo()
    shown = [state for state in TaskState if found["states"][state]]
    print_table(
        ("QUEUE", *(state.upper() for state in shown)),
        ((queue, *(counts[s] for s in shown)) for queue, counts in found["queues"].items()),
    )
