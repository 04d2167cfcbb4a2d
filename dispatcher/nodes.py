"""The nodes of a store as their rows show them: which take work, and which may run a task. Pure."""

import enum
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from dispatcher.model import Node
from dispatcher.times import StoreTime

#: Characters of a node's id that are shown: enough to name it.
ID: Final = 8

#: Intervals of a node's row without a write after which it is called silent.
SILENT_AFTER: Final = 3


class NodeState(enum.StrEnum):
    """What a node does, by its row."""

    UP = "up"
    DRAINING = "draining"
    """An operator lets it take no more work."""
    SILENT = "silent"
    """Its daemon does not write its row."""
    STOPPED = "stopped"
    """Its daemon has stopped and left nothing behind."""


class NodeView(Struct, frozen=True, kw_only=True):
    """A node, and what it does."""

    node: Node
    name: str
    """What people call it, and verbs take: see `names`."""
    state: NodeState
    running: int = 0
    """Its open runs."""
    is_here: bool = False
    """Whether it is that of the state directory here."""

    @property
    def takes_work(self) -> bool:
        return self.state is NodeState.UP

    @property
    def free(self) -> int:
        """Its slots without a run."""
        return max(0, self.node.slots - self.running)

    def lacks(self, requires: Mapping[str, str]) -> Mapping[str, str]:
        """Return the required labels that it does not have."""
        own = self.node.labels
        return {name: value for name, value in requires.items() if own.get(name) != value}


class Requiring(Struct, frozen=True, kw_only=True):
    """The ready tasks of a queue that need the same, besides a slot."""

    queue: str
    requires: Mapping[str, str] = {}
    """Labels of a node."""
    takes: Mapping[str, int] = {}
    """Named limits."""
    behind: bool = False
    """Whether each waits for its concurrency key; then no needs are known."""
    tasks: int
    since: StoreTime
    """Since when the one that waits longest is ready."""


def viewed(
    nodes: Iterable[Node],
    running: Mapping[str, int],
    *,
    here: str | None,
    is_up: bool,
    is_shared: bool,
    now: StoreTime,
) -> list[NodeView]:
    """Return the nodes as they are now; `is_up`: whether the daemon of the one `here` runs."""
    nodes = [*nodes]
    called = names(nodes)
    return [
        NodeView(
            node=node,
            name=called[node.id],
            state=_state(node, is_up=is_up and node.id == here, is_shared=is_shared, now=now),
            running=running.get(node.id, 0),
            is_here=node.id == here,
        )
        for node in nodes
    ]


def _state(node: Node, *, is_up: bool, is_shared: bool, now: StoreTime) -> NodeState:
    if not is_up and is_shared and not node.session:
        return NodeState.STOPPED
    if not is_up and now - node.seen_at >= SILENT_AFTER * node.seen_interval_ms:
        return NodeState.SILENT
    return NodeState.UP if node.draining is None else NodeState.DRAINING


def names(nodes: Sequence[Node]) -> dict[str, str]:
    """Return what people call nodes, by id: the hostname, and of namesakes how their ids begin."""
    many = Counter(node.hostname for node in nodes)
    return {
        node.id: node.hostname if many[node.hostname] == 1 else f"{node.hostname}/{node.id[:ID]}"
        for node in nodes
    }


def named(views: Sequence[NodeView], name: str) -> list[NodeView]:
    """Return the nodes that a name means: one of `names`, an id, its beginning, or a hostname."""
    exactly = [one for one in views if name in (one.node.id, one.name)]
    return exactly or [
        one for one in views if one.node.hostname == name or one.node.id.startswith(name)
    ]


def differing(views: Iterable[NodeView]) -> dict[str, str]:
    """Return the limits of which files of nodes say different things, with what each one says.

    Each node obeys its own file; of those that do not work, and older daemons, none counts.
    """
    works = (NodeState.UP, NodeState.DRAINING)
    obeys = {
        one.name: one.node.obeys
        for one in views
        if one.state in works and one.node.obeys is not None
    }
    said = {
        limit: {name: rules.get(limit, "none") for name, rules in obeys.items()}
        for limit in sorted({limit for rules in obeys.values() for limit in rules})
    }
    return {
        limit: "; ".join(f"{rule} on {name}" for name, rule in rules.items())
        for limit, rules in said.items()
        if len({*rules.values()}) > 1
    }


def pairs_text(labels: Mapping[str, str]) -> str:
    """Return labels as `--require` takes them."""
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def missing_text(views: Iterable[NodeView], requires: Mapping[str, str]) -> str:
    """Return that no node has the labels that a task requires, and what each lacks."""
    found = [f"{one.name} {_what_keeps(one, requires)}" for one in views]
    return f"it requires {pairs_text(requires)}, and no node that takes work has that: " + (
        "; ".join(found)
    )


def _what_keeps(view: NodeView, requires: Mapping[str, str]) -> str:
    """Return the labels that a node lacks, otherwise why it takes no work."""
    own = view.node.labels
    lacking = [
        f"has {name}={own[name]}" if name in own else f"has no {name}"
        for name in sorted(view.lacks(requires))
    ]
    return " and ".join(lacking) if lacking else f"has it, but is {view.state}"


def full_text(views: Sequence[NodeView]) -> str:
    """Return that no slot is free on the nodes that may run a task."""
    busy = ", ".join(f"{one.name} {one.running} of {one.node.slots}" for one in views)
    return f"all slots are busy on the nodes that may run it: {busy}"
