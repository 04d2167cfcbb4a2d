"""One node in virtual time whose store is on a real server, which keeps virtual time, too."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from dispatcher.store.open import open_store
from dispatcher.store.server_clock import Reading, ServerClock
from dispatcher.store.sql import SqlStore
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.supervisor import Supervisor
from tests.fresh_stores import EMPTY
from tests.postgres import Postgres
from tests.simulation import World


@dataclass(kw_only=True)
class ServerWorld(World):
    """A node on a shared store, each of whose daemons has a session of its own."""

    server: Postgres
    state_dir: Path

    def __post_init__(self) -> None:
        self._sessions = count(1)
        super().__post_init__()

    def opened(self) -> SqlStore:
        opened = open_store(self.server.url(), state_dir=self.state_dir, patience=10.0)
        assert isinstance(opened, SqlStore)
        self.server.sql(EMPTY)
        clock = ServerClock(self._read, self.clock())
        return SqlStore(opened.engine, opened.identity, clock, self.bell)

    def _read(self) -> Reading:
        return Reading(self.now(), took=0.0, at=self.at())

    def fresh_supervisor(self, **changes: Any) -> Supervisor:
        session = NodeSession(
            uid=f"daemon-{next(self._sessions)}",
            boot_id="boot",
            pid_namespace="pid:[1]",
            state_dir="/state",
        )
        return super().fresh_supervisor(session=session, **changes)
