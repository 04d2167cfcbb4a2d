"""Nodes in virtual time that share a server, whose replica forgets the last commits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace
from pysqlite3 import dbapi2

from dispatcher.errors import StoreUnavailable
from dispatcher.store import migrate
from dispatcher.store.server_clock import Reading, ServerClock
from dispatcher.store.sql import SqlStore
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.turn import SupervisorSettings
from dispatcher.times import StoreTime
from tests.simulation import SETTINGS, World

#: Seconds for which the runs of a node go on unconfirmed, and what others wait for beyond it: 2 s
#: and the margin, and then the kill grace.
LIMIT = 60.0
BEYOND = 2.0 + 15.0
GRACE = 10.0


class ReplicatedEngine(SqliteEngine):
    """SQLite in the place of a server: with a timeline, and replicas."""

    dialect = replace(SqliteEngine.dialect, shared=True)

    def __init__(self) -> None:
        super().__init__(None, patience=0.0)
        self.sessions = self.timeline = 1

    @property
    def origin(self) -> tuple[int, int]:
        return self.sessions, self.timeline


class Server:
    """A primary; its replica has what was committed until `part`."""

    def __init__(self) -> None:
        self.engine = ReplicatedEngine()
        self.engine.dialect = SqliteEngine.dialect  # its tables are SQLite's
        self.identity = migrate.create(self.engine)
        self.engine.dialect = ReplicatedEngine.dialect
        self.ahead_ms = 0
        """How far its clock was set."""
        self._replica: Any = None

    def part(self) -> None:
        """Let the replica receive nothing more."""
        self._replica = dbapi2.connect(":memory:")
        self.engine.connection.backup(self._replica)

    def fail_over(self) -> None:
        """Let the replica take over; with nothing forgotten if it did not part."""
        if self._replica is not None:
            self._replica.backup(self.engine.connection)
        self.engine.sessions, self.engine.timeline = (
            self.engine.sessions + 1,
            self.engine.timeline + 1,
        )


class SharedStore(SqlStore):
    """A node's store, which may be cut off from the server."""

    is_cut = False

    @contextmanager
    def transaction(self) -> Iterator[StoreTime]:
        if self.is_cut:
            raise StoreUnavailable("the network is cut")
        with super().transaction() as now:
            yield now


def settings(name: str, **changes: Any) -> SupervisorSettings:
    """Return those of a node of this name."""
    session = NodeSession(uid=name, boot_id="boot", pid_namespace="pid:[1]", state_dir="/state")
    return replace(
        SETTINGS, node_id=name, hostname=name, session=session, absence_limit=LIMIT, **changes
    )


@dataclass
class Host(World):
    """A node of several."""

    server: Server = field(default_factory=Server)

    def __post_init__(self) -> None:
        self.shared = self.store = SharedStore(
            self.server.engine,
            self.server.identity,
            ServerClock(self._read, self.clock()),
            self.bell,
        )
        self.executor.clock, self.executor.wall = self.at, self.wall
        self.supervisor = self.fresh_supervisor()
        self.deadline = self.at()

    def _read(self) -> Reading:
        """Return the reading of the server's clock."""
        return Reading(StoreTime(self.now() + self.server.ahead_ms), took=0.0, at=self.at())

    def kill_deadline(self, uid: str) -> float:
        """Return the elapsed seconds at which its executor ends a run by itself."""
        at = 0.0
        for message in self.executor.sent:
            deadlines = getattr(message, "deadlines", {})
            deadlines = (
                deadlines if getattr(message, "uid", None) == uid else deadlines.get(uid, {})
            )
            at = deadlines.get("absence", at) if isinstance(deadlines, dict) else at
        return at - 10_000


@dataclass
class Cluster:
    """Hosts whose time passes together."""

    server: Server = field(default_factory=Server)
    hosts: list[Host] = field(default_factory=list)

    def host(self, name: str, **changes: Any) -> Host:
        """Start a node."""
        host = Host(settings=settings(name, **changes), server=self.server)
        host.elapsed = self.hosts[0].elapsed if self.hosts else 0.0
        self.hosts.append(host)
        host.start()
        return host

    def run_for(self, seconds: float, *, step: float = 0.5) -> None:
        left = seconds
        while left > 0:
            for host in self.hosts:
                host.run_for(min(step, left))
            left -= step
