"""Hosts that share a store in virtual time. Their executors obey their deadlines, as real ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from dispatcher import wire
from dispatcher.errors import CommitUnknown, StoreUnavailable
from dispatcher.store.api import Store
from dispatcher.times import StoreTime
from tests.simulation import SETTINGS, FakeExecutor, World, replace_run

#: Seconds for which runs go on unconfirmed.
LIMIT = 100.0

#: The grace of every run: its worker ignores the first signal.
GRACE = 10.0

#: From a node's last word on, runs end at the latest so many seconds later, and are another's.
ENDED = LIMIT + 2 + GRACE
TAKEN = ENDED + SETTINGS.takeover_margin


class Road:
    """The way of one host to the store, which may be cut."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.cut = False
        self.loses_answers = False
        """Whether commits happen whose answers are lost."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def transaction(self) -> Iterator[StoreTime]:
        if self.cut:
            raise StoreUnavailable("the network is cut")
        with self._store.transaction() as now:
            yield now
        if self.loses_answers:
            raise CommitUnknown("the network is cut")


class Obedient(FakeExecutor):
    """It ends runs by itself when their deadlines pass; workers live until their grace is over."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: dict[wire.RunUid, float] = {}
        self.graces: dict[wire.RunUid, float] = {}
        self.killed_at: dict[wire.RunUid, float] = {}
        self.tasks: dict[wire.RunUid, int] = {}

    def send(self, message: wire.ToExecutor) -> None:
        super().send(message)
        match message:
            case wire.Start():
                self.deadlines[message.uid] = message.deadlines.get(wire.EndedBy.ABSENCE, math.inf)
                self.graces[message.uid] = message.kill_grace
                self.tasks[message.uid] = int(message.env["DISPATCHER_TASK_ID"])
            case wire.Renew():
                for uid, moved in message.deadlines.items():
                    at = moved.get(wire.EndedBy.ABSENCE, -math.inf)
                    self.deadlines[uid] = max(at, self.deadlines.get(uid, at))
            case wire.End() if message.uid in self.runs:
                self._end(message.uid, 0.0 if message.at_once else self.graces[message.uid])

    def living(self) -> list[wire.RunUid]:
        return [uid for uid, run in self.runs.items() if run.state is not wire.RunState.GONE]

    @property
    def due(self) -> float:
        ends = [self.killed_at.get(uid, self.deadlines.get(uid, math.inf)) for uid in self.living()]
        return min(ends, default=math.inf)

    def obey(self) -> None:
        """End what is due."""
        at = self.clock()
        for uid in self.living():
            if uid not in self.killed_at and self.deadlines.get(uid, math.inf) <= at:
                ending, absence = wire.RunState.ENDING, wire.EndedBy.ABSENCE
                self.runs[uid] = replace_run(self.runs[uid], state=ending, ended_by=absence)
                self.events.append(wire.Changed(uid=uid, state=ending, ended_by=absence))
                self._end(uid, self.graces[uid])
            if self.killed_at.get(uid, math.inf) <= at:
                self.gone(uid, None, signal=9, at=at)

    def _end(self, uid: wire.RunUid, grace: float) -> None:
        self.killed_at.setdefault(uid, self.clock() + grace)


@dataclass
class Host(World):
    """A node among others."""

    executor: Obedient = field(default_factory=Obedient)
    shared: Store | None = None
    frozen: bool = False
    """Whether its daemon stands still."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shared is None:
            self.shared = self.store
            engine: Any = self.store
            engine.engine.dialect = replace(engine.engine.dialect, shared=True)
        self.road: Any = Road(self.shared)
        self.store = self.road
        self.fresh_supervisor()

    def finish(self, task_id: int, exit_code: int = 0) -> None:
        """Let a task's worker exit here, whether the daemon can record it or not."""
        uid = next(uid for uid in self.executor.living() if self.executor.tasks[uid] == task_id)
        self.executor.gone(uid, exit_code, at=self.at())

    @property
    def tasks(self) -> list[int]:
        """The tasks whose workers live here."""
        return sorted(self.executor.tasks[uid] for uid in self.executor.living())


class Hosts:
    """Some hosts. At each instant at most one tree of a task lives."""

    def __init__(self, count: int = 2, **settings: Any) -> None:
        self.all: list[Host] = []
        for number in range(1, count + 1):
            node = f"5a7c0c3e-0000-4000-8000-{number:012}"
            given = {"absence_limit": LIMIT, "node_id": node, "hostname": f"host-{number}"}
            host = Host(
                settings=replace(SETTINGS, **{**given, **settings}),
                shared=self.all[0].shared if self.all else None,
                seed=number,
            )
            self.all.append(host)

    def start(self) -> Sequence[Host]:
        for host in self.all:
            host.start()
        self.judge()
        return self.all

    def run_for(self, seconds: float) -> None:
        """Let time pass for all."""
        end = self.all[0].elapsed + seconds
        while (step := self._next()) <= end:
            self._advance(step)
        self._advance(end)

    def _next(self) -> float:
        awake = [host.deadline for host in self.all if not host.frozen]
        return min([*awake, *(host.executor.due for host in self.all)]) - 10_000

    def _advance(self, elapsed: float) -> None:
        for host in self.all:
            host.elapsed = max(host.elapsed, elapsed)
        for host in self.all:
            host.executor.obey()
        self.judge()
        for host in self.all:
            if not host.frozen and (host.executor.events or host.deadline <= host.at()):
                host.settle_down()
        self.judge()

    def judge(self) -> None:
        living = Counter(task for host in self.all for task in host.tasks)
        assert [] == [task for task, trees in living.items() if trees > 1]
