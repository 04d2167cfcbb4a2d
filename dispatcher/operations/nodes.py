"""Operators' decisions about the nodes of a store."""

from __future__ import annotations

from collections.abc import Sequence

from dispatcher import commits
from dispatcher.errors import DispatcherError, did_you_mean
from dispatcher.nodes import NodeView, named
from dispatcher.operations.reading import Reader
from dispatcher.times import StoreTime


class NodeOperator(Reader):
    """The part of a `Client` for nodes.

    A name is a node's hostname, its id, or the beginning of that. `DispatcherError` is raised for
    one that means none, or several.
    """

    def drain_node(self, name: str, reason: str = "drained by an operator") -> NodeView:
        """Let a node take no more work, whose runs go on; return what it was."""
        view = _found(self.nodes(), name)
        drain = commits.first_answer(
            lambda now: self.store.drain_node(view.node.id, reason, now=now)
        )
        commits.change(self.store, drain, remedy="drain it again")
        return view

    def resume_node(self, name: str) -> bool:
        """Let a node take work again; False: it was not draining."""
        node_id = _found(self.nodes(), name).node.id
        resume = commits.first_answer(lambda now: self.store.resume_node(node_id, now=now))
        return commits.change(self.store, resume, remedy="resume it again")

    def forget_node(self, name: str) -> NodeView:
        """Forget a node that is gone, and return it.

        Raises `DispatcherError` while it lives, or holds claims.
        """
        view = _found(self.nodes(), name)

        def forget(now: StoreTime) -> bool:
            return self.store.forget_node(view.node.id, now=now)

        if not commits.change(self.store, commits.first_answer(forget), remedy="forget it again"):
            raise DispatcherError(_why_kept(view))
        return view


def _found(views: Sequence[NodeView], name: str) -> NodeView:
    """Return the node that a name means. Raises `DispatcherError` for none, and for several."""
    found = named(views, name)
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{one.node.id} on {one.name} ({one.state})" for one in found)
        raise DispatcherError(f"{name!r} may be any of {ids}; give the id, or its beginning")
    near = did_you_mean(name, {one.name for one in views})
    raise DispatcherError(f"no node {name!r}{near or '; `dispatcher nodes` lists them'}")


def _why_kept(view: NodeView) -> str:
    """Return why a node is not forgotten, and the remedy."""
    if view.running:
        runs = "a run" if view.running == 1 else f"{view.running} runs"
        remedy = "wait until they are over, or until other nodes have taken them over"
        return f"{view.name} holds the claims of {runs}; {remedy}"
    return f"{view.name} was seen lately; stop its daemon, and try again a little later"
