"""This node's row in the store."""

from functools import partial

from dispatcher.model import Node
from dispatcher.store.api import SupervisorStore
from dispatcher.supervisor.turn import Memory, Turn
from dispatcher.times import LONG_AGO, Instant

#: Seconds between writes of the row: with runs, and without.
SEEN_INTERVAL = (5.0, 60.0)


class NodeRow:
    """Keeps the row up to date while an executor is connected."""

    def __init__(self, store: SupervisorStore, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._written_at = LONG_AGO

    def expire(self) -> None:
        """Have the row written in the next tick."""
        self._written_at = LONG_AGO

    def write_node_row(self, turn: Turn) -> None:
        interval = SEEN_INTERVAL[0 if self._memory.live else 1]
        if self._memory.hello is not None and turn.at >= self._written_at + interval:
            hello, settings = self._memory.hello, self._memory.settings
            node = Node(
                id=settings.node_id,
                boot_id=hello.boot_id,
                pid_namespace=hello.pid_namespace,
                hostname=settings.hostname,
                slots=settings.slots,
                seen_at=turn.now,
                seen_interval_ms=round(interval * 1000),
                listen=settings.listen,
            )
            self._store.record_node(node)
            turn.after(partial(self._remember_written, turn.at))

    def _remember_written(self, at: Instant) -> None:
        self._written_at = at
