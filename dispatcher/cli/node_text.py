"""Nodes as JSON that other programs rely on, and as lines for people."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dispatcher.calendar import Calendar
from dispatcher.cli import render
from dispatcher.nodes import NodeState, NodeView


def node_json(view: NodeView, calendar: Calendar) -> dict[str, Any]:
    """Return a node with every key that other programs rely on."""
    node = view.node
    return {
        "id": node.id,
        "hostname": node.hostname,
        "name": view.name,
        "here": view.is_here,
        "state": view.state,
        "draining": node.draining,
        "slots": node.slots,
        "running": view.running,
        "labels": dict(node.labels),
        "release": node.release,
        "seen_at": calendar.iso(node.seen_at),
        "listen": node.listen,
    }


def lines(nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield whether the node here drains, and what several do, as lines of `status`.

    `nodes`: as `node_json` returns them.
    """
    states = Counter(node["state"] for node in nodes)
    for node in nodes:
        if node["here"] and node["draining"] is not None:
            remedy = f"dispatcher node resume {node['name']}"
            yield render.line(f"draining  {node['draining']}; {remedy}")
    if len(nodes) > 1:
        some = ", ".join(f"{states[state]} {state}" for state in NodeState if states[state])
        yield f"nodes     {some}; dispatcher nodes lists them"
