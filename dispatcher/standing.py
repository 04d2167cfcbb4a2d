"""How a node and its queues stand: what the store knows, and what a running daemon says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dispatcher.model import Leases, Node, PausedQueue, TaskState
from dispatcher.times import StoreTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What keeps this node from running tasks, or does not."""

    now: StoreTime
    paused: Sequence[PausedQueue]
    """Queues from which nobody claims."""
    node: Node | None
    """This node's row; None if no daemon ever ran here."""
    daemon: Literal["running", "not running", "not answering"]
    report: Mapping[str, Any]
    """What a running daemon says of itself: `Supervisor.status`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How things stand, counted over all tasks."""

    standing: Standing
    counts: Mapping[str, Mapping[TaskState, int]]
    """How many tasks are in each state, by queue."""
    ready_since: Mapping[str, StoreTime]
    """Since when the ready task of each queue that has waited longest is ready."""
    leases: Leases
