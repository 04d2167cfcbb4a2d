"""How things stand: the store and a running daemon, asked together."""

from __future__ import annotations

from typing import Literal

from dispatcher import control
from dispatcher.config.config import Config
from dispatcher.host.node import known_node_id
from dispatcher.standing import Standing, Status
from dispatcher.store.api import ReaderStore


def status(store: ReaderStore, config: Config) -> Status:
    """Return how things stand, with what takes a look at every task."""
    with store.snapshot():
        counts, leases = store.counts(), store.leases()
        ready_since = store.ready_since()
        coming, damaged_parts = store.coming(), store.damaged_parts()
    return Status(
        counts=counts,
        ready_since=ready_since,
        leases=leases,
        standing=standing(store, config),
        coming=coming,
        damaged_parts=damaged_parts,
    )


def standing(store: ReaderStore, config: Config) -> Standing:
    """Return how this node stands, and what a running daemon says of itself."""
    me = known_node_id(config.state_dir)
    with store.snapshot():
        calendar = store.calendar()
        nodes = {node.id: node for node in store.nodes()}
        paused = {one.queue: one for one in store.paused_queues()}
    report = None
    daemon: Literal["running", "not running", "not answering", "not ours"] = "running"
    try:
        report = control.report(config)
    except TimeoutError:
        daemon = "not answering"
    except control.NotOurs:
        daemon = "not ours"
    unreachable = control.why_unreachable(config) if report is None else None
    if report is None:
        daemon = "not running" if unreachable is None else "not answering"
    node = nodes.get(me or "")
    queues = config.queues.items()
    return Standing(
        calendar=calendar,
        paused=paused,
        node=node,
        daemon=daemon,
        report=report,
        unreachable=unreachable,
        by_hand={name for name, queue in queues if queue.concurrency == 0},
    )
