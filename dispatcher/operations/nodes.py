"""Operators' decisions about the nodes of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from dispatcher import commits
from dispatcher.errors import DispatcherError, did_you_mean
from dispatcher.nodes import NodeView, named
from dispatcher.operations.reading import Reader
from dispatcher.times import StoreTime

if TYPE_CHECKING:
    from dispatcher.schedules import ScheduleChange

_SEEN: Final = "{name} was seen lately; stop its daemon, and try again a little later"


class NodeOperator(Reader):
    """The part of a `Client` for nodes, and for schedules.

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

    def forget_node(self, name: str, *, dead: bool = False) -> NodeView:
        """Forget a node that is gone, and return it.

        With `dead` the caller vouches that its host is off, so that nothing runs there: its claims
        are settled, as declared or `orphaned`. Raises `DispatcherError` while it was seen lately,
        if it holds claims and is not `dead`, and if it is `dead` and this node.
        """
        view = _found(self.nodes(), name)
        if dead and view.is_here:
            raise DispatcherError(
                f"{view.name} is this node, which is not dead; its daemon settles what is over"
            )

        def forget(now: StoreTime) -> bool:
            settled = self._settle_of(view.node.id, now) if dead else 0
            forgotten = self.store.forget_node(view.node.id, now=now)
            if settled and not forgotten:
                raise DispatcherError(_SEEN.format(name=view.name))  # and nothing is settled
            return forgotten

        if not commits.change(self.store, commits.first_answer(forget), remedy="forget it again"):
            raise DispatcherError(_why_kept(view, dead=dead))
        return view

    def _settle_of(self, node_id: str, now: StoreTime) -> int:
        from random import SystemRandom  # noqa: PLC0415 - hardly ever needed, and slow to import

        from dispatcher.supervisor.abandoned import settle_of_node  # noqa: PLC0415

        return settle_of_node(self.store, node_id, rng=SystemRandom(), now=now)

    def change_schedule(
        self, name: str, change: ScheduleChange | str, reason: str | None = None
    ) -> bool:
        """Pause a schedule, let it go on, or forget it; False: it was so already.

        `change` is a `ScheduleChange` or its word. Raises `DispatcherError` for an unknown name.
        """
        from dispatcher.operations import schedules  # noqa: PLC0415 - few have schedules

        return schedules.change(self.store, self.config, name, change, reason)


def _found(views: Sequence[NodeView], name: str) -> NodeView:
    """Return the node that a name means. Raises `DispatcherError` for none, and for several."""
    found = named(views, name)
    if len(found) == 1:
        return found[0]
    if found:
        those = ", ".join(f"{one.name} ({one.state})" for one in found)
        raise DispatcherError(f"{name!r} may be any of {those}; give one of these names, or the id")
    near = did_you_mean(name, {one.name for one in views})
    raise DispatcherError(f"no node {name!r}{near or '; `dispatcher nodes` lists them'}")


def _why_kept(view: NodeView, *, dead: bool) -> str:
    """Return why a node is not forgotten, and the remedy."""
    if view.running and not dead:
        runs = "a run" if view.running == 1 else f"{view.running} runs"
        remedy = (
            "wait until they are over, or until other nodes have taken them over; if its host is"
            " off for good: dispatcher node forget --dead"
        )
        return f"{view.name} holds the claims of {runs}; {remedy}"
    return _SEEN.format(name=view.name)
