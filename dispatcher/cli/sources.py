"""Where the output of a run is read: its file on this host, or its node's listener."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dispatcher.cli.output import print_kept
from dispatcher.client import Client
from dispatcher.errors import DispatcherError
from dispatcher.host.node import known_node_id
from dispatcher.host.run_output import RunOutput
from dispatcher.model import Node, Run
from dispatcher.store.schema import is_shared

if TYPE_CHECKING:
    from dispatcher.peers.remote_output import RemoteOutput


def opened(store: Client, run: Run, *, tail: int | None = None) -> RunOutput | RemoteOutput:
    """Return a run's output, to be read from its beginning or from its last lines.

    Raises `DispatcherError`, which names the place, for one on another node that does not give it
    away; what the store has kept of it is printed before.
    """
    if is_here(store, run):
        budget = store.config.output.run_budget
        return RunOutput(run.output_path, budget=budget, tail=tail)
    with store.store.snapshot():
        node = next((one for one in store.store.nodes() if one.id == run.node), None)
    try:
        return _fetched(store, run, node, tail)
    except DispatcherError:
        print_kept(run, "this was the end of the output")
        if run.outcome is None:
            text = "dispatcher: the run is open: the store keeps the end of its output once it ends"
            click.echo(text, err=True)
        raise


def is_here(store: Client, run: Run) -> bool:
    """Return whether the output of a run is on this host, if it is anywhere."""
    config = store.config
    if not is_shared(config.store_url) or os.access(run.output_path, os.R_OK):
        return True
    is_empty = run.outcome is not None and run.output_tail == ""  # and has left no file
    return is_empty or run.node == known_node_id(config.state_dir)


def _fetched(store: Client, run: Run, node: Node | None, tail: int | None) -> RemoteOutput:
    """Return the output that the run's node gives away. Raises `DispatcherError`."""
    place = f"run {run.id} is on {_named(run, node)}, and its output is there in {run.output_path}"
    by_hand = f"run `dispatcher logs {run.task_id} --run {run.id}` on that host"
    if node is None or node.listen is None:
        remedy = f"{by_hand}, or let its configuration have [peers] listen"
        raise DispatcherError(f"{place}; that node does not listen: {remedy}")
    if store.config.peers.token_file is None:
        remedy = f"let [peers] token_file here name the file of its token, or {by_hand}"
        raise DispatcherError(f"{place}; it listens at {node.listen}: {remedy}")

    from dispatcher.peers.remote_output import OutOfReach, RemoteOutput  # noqa: PLC0415 - TLS

    def out_of_reach(reason: str) -> str:
        return f"{place}; {node.listen} does not give it: {reason}; {by_hand}"

    output = RemoteOutput(
        node.listen, store.config.peers, run.uid, tail=tail, explained=out_of_reach
    )
    try:
        output.exists()
    except OutOfReach:
        output.close()
        raise
    return output


def _named(run: Run, node: Node | None) -> str:
    return f"node {run.node}" if node is None else f"node {node.hostname} ({node.id})"
