"""This node's row in the store: who it is, what it has, and when it was last seen."""

from functools import partial

import structlog
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.errors import ConfigError
from dispatcher.model import Node
from dispatcher.nodes import differing, viewed
from dispatcher.store.api import SupervisorStore
from dispatcher.supervisor.failover import Failover
from dispatcher.supervisor.turn import Memory, SupervisorSettings, Turn
from dispatcher.times import LONG_AGO, Instant, StoreTime

log = structlog.get_logger()

#: Seconds between writes of the row: with runs, and without.
SEEN_INTERVAL = (5.0, 60.0)

#: The same on a shared store, where others find by them whether the node lives.
SHARED_SEEN_INTERVAL = (5.0, 10.0)


def own_row(
    settings: SupervisorSettings, hello: wire.Hello | None, *, now: StoreTime, interval: float
) -> Node:
    """Return this node's row as its daemon writes it; a shared store needs no executor for that."""
    session = settings.session
    place = session if session is not None else hello
    if place is None:
        raise ValueError("the row of an embedded store needs the executor's greeting")
    return Node(
        id=settings.node_id,
        boot_id=place.boot_id,
        pid_namespace=place.pid_namespace,
        hostname=settings.hostname,
        slots=settings.slots,
        seen_at=now,
        seen_interval_ms=round(interval * 1000),
        session=settings.session_uid,
        release=wire.RELEASE,
        labels=settings.labels,
        listen=settings.listen,
        unconfirmed_ms=settings.unconfirmed_ms,
        obeys={name: str(rule) for name, rule in settings.limits.items()},
    )


class NodeRow:
    """Keeps the row up to date: on an embedded store while an executor is connected."""

    def __init__(self, store: SupervisorStore, memory: Memory, failover: Failover) -> None:
        self._store, self._memory, self._failover = store, memory, failover
        self._written_at = LONG_AGO

    @property
    def due(self) -> Instant:
        """When others want to see the row written again."""
        if self._memory.settings.session is None:
            return LONG_AGO
        return Instant(self._written_at + self._interval)

    def expire(self) -> None:
        """Have the row written in the next tick."""
        self._written_at = LONG_AGO

    def write_node_row(self, turn: Turn) -> None:
        """Write the row if it is due. Raises `ConfigError` once another daemon has it."""
        memory, settings = self._memory, self._memory.settings
        if memory.hello is None and settings.session is None:
            return
        if turn.at >= self._written_at + self._interval and not turn.held.node:
            row = own_row(settings, memory.hello, now=turn.now, interval=self._interval)
            row = replace(row, timeline=self._failover.reconciled_timeline)
            if not self._store.record_node(row):
                raise _lost(settings)
            if self._written_at == LONG_AGO and settings.limits and settings.session is not None:
                self._compare_limits(turn)
            turn.after(partial(self._remember_written, turn.at))

    def _compare_limits(self, turn: Turn) -> None:
        """Log, once for each configuration, each limit that other nodes' files set otherwise."""
        here = self._memory.settings.node_id
        views = viewed(self._store.nodes(), {}, here=here, is_up=True, is_shared=True, now=turn.now)
        for limit, text in differing(views).items():
            turn.after(partial(log.warning, "limits.differ", limit=limit, reason=text))

    @property
    def _interval(self) -> float:
        is_alone = self._memory.settings.session is None
        intervals = SEEN_INTERVAL if is_alone else SHARED_SEEN_INTERVAL
        return intervals[0 if self._memory.live else 1]

    def _remember_written(self, at: Instant) -> None:
        self._written_at = at


def _lost(settings: SupervisorSettings) -> ConfigError:
    assert settings.session is not None
    return ConfigError(
        f"another daemon has taken the identity of this node, {settings.node_id}: nothing more is"
        f" claimed here, and its runs go on without a daemon; {settings.session.remedy}"
    )
