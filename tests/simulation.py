"""A supervisor in virtual time: the real store in memory, a fake executor, a clock that jumps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from dispatcher import wire
from dispatcher.execution import RetryPolicy
from dispatcher.executor_api import (
    Connected,
    Disconnected,
    Event,
    ExecutorApi,
    OutputState,
    StartSettings,
)
from dispatcher.model import Run, Task, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.api import Store
from dispatcher.store.bell import Bell
from dispatcher.store.open import open_store
from dispatcher.supervisor.recorder import TICKS
from dispatcher.supervisor.retention import Files
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.supervisor.turn import Request, SupervisorSettings
from dispatcher.times import HostClock, Instant, StoreTime, WallTime

EPOCH = StoreTime(1_800_000_000_000)
NODE = "5a7c0c3e-0000-4000-8000-000000000001"

SETTINGS = SupervisorSettings(
    node_id=NODE,
    hostname="here",
    slots=2,
    output_dir="/output",
    start=StartSettings(worker_socket="/run/worker.sock"),
)

#: Of the tasks that are submitted.
RETRY = RetryPolicy(backoff_max_ms=60_000, cooldown_ms=30_000)

#: Seconds by which a sum of seconds may differ from the deadline that it means.
EXACT = 1e-9


class FakeBell:
    """A bell that counts, and calls what a test gives it."""

    def __init__(self, statement: str = "") -> None:
        self.statement = statement
        self.rings = 0
        self.heard: int | None = None
        self.on_ring: Callable[[], object] = int

    def ring(self) -> None:
        self.rings += 1
        self.on_ring()

    failure = None

    def fileno(self) -> None: ...

    def read(self) -> None: ...

    def close(self) -> None: ...


rings: Bell = FakeBell()


class FakeExecutor:
    """An executor whose runs live in a dict, start at once and end when the test ends them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.runs: dict[wire.RunUid, wire.RunReport] = {}
        self.sent: list[wire.ToExecutor] = []
        self.starts: list[wire.Start] = []
        self.answering = True
        self.greeting: wire.Hello | None = None
        self.missing = False
        self.incompatible: wire.Hello | None = None
        self.last_error: str | None = None
        self.silent = False
        self.last_read_at = Instant(0.0)
        self.mute = False
        self.answered = Instant(-math.inf)
        self.refusal: wire.StartFailed | None = None
        self.greetings = 0
        self.clock: Callable[[], Instant] = lambda: Instant(0.0)
        self.wall: Callable[[], WallTime] = lambda: WallTime(0)
        self.outputs: dict[str, tuple[int, WallTime]] = {}
        """Bytes of each output, and when it last grew, by the host's clock."""
        self.alive: dict[wire.RunUid, str] = {}
        """Living processes of runs that it does not know."""
        self.looks = 0
        self._pids = iter(range(1000, 10**9))

    def greet(self) -> None:
        """Greet the daemon on a fresh connection."""
        self.greetings += 1
        self.greeting = self.hello()
        self.events.append(Connected(self.greeting, tuple(self.runs.values())))

    def hello(self, *, version: int = wire.VERSION) -> wire.Hello:
        """Return what it greets with."""
        return wire.Hello(
            version=version,
            node_id=NODE,
            state_dir="/state",
            boot_id="boot",
            pid_namespace="pid:[1]",
            store_id="",
            epoch=self.greetings,
            pid=99,
        )

    def die(self) -> None:
        """Lose everything: the next greeting names no run."""
        self.runs.clear()
        self.greeting = None
        self.events.append(Disconnected("died"))

    def has_answered(self, *, since: Instant) -> bool:
        """Answer a ping at once, unless `mute`: then only pings before `answered` were answered."""
        return self.answering and (not self.mute or self.answered >= since)

    def send(self, message: wire.ToExecutor) -> None:
        """Obey at once."""
        self.sent.append(message)
        if isinstance(message, wire.Start):
            self._start(message)
        elif isinstance(message, wire.End) and message.uid in self.runs:
            self.runs[message.uid] = replace_run(
                self.runs[message.uid], state=wire.RunState.ENDING, ended_by=message.reason
            )
        elif isinstance(message, wire.Forget):
            self.runs.pop(message.uid, None)

    def output_state(self, path: str, pid: int | None) -> OutputState:
        """Return what the test let a run write."""
        if path not in self.outputs:
            return OutputState(0, 0.0, math.inf)
        size, grown_at = self.outputs[path]
        return OutputState(size, grown_at / 1000, (self.wall() - grown_at) / 1000)

    def survivors(self, runs: Mapping[wire.RunUid, Collection[str]]) -> Mapping[wire.RunUid, str]:
        """Return which runs the test lets live on this host."""
        self.looks += 1
        return {uid: self.alive[uid] for uid in runs if uid in self.alive}

    def write(self, uid: wire.RunUid, *, grows: bool = True) -> None:
        """Let a run write a byte, or write its last byte again."""
        path = f"/output/{uid}.log"
        self.outputs[path] = self.outputs.get(path, (0, None))[0] + grows, self.wall()

    def reconnect(self) -> None:
        """Greet again."""
        self.events.append(Disconnected("reconnecting"))
        self.greet()

    def gone(self, uid: wire.RunUid, exit_code: int | None = 0, **facts: Any) -> None:
        """Let a run's tree be gone."""
        run = self.runs[uid]
        end = wire.Exit(at=facts.pop("at", 0.0), exit_code=exit_code, **facts)
        self.runs[uid] = replace_run(run, state=wire.RunState.GONE, exit=end)
        self.events.append(wire.Exited(uid=uid, exit=end, ended_by=run.ended_by))

    def _start(self, message: wire.Start) -> None:
        if self.refusal is not None:
            self.events.append(
                wire.StartFailed(
                    uid=message.uid, fault=self.refusal.fault, error=self.refusal.error
                )
            )
            return
        self.starts.append(message)
        pid = next(self._pids)
        at = self.clock()
        ticks = round(at * TICKS)
        self.runs[message.uid] = wire.RunReport(
            uid=message.uid, state=wire.RunState.RUNNING, pid=pid, start_ticks=ticks
        )
        self.events.append(wire.Started(uid=message.uid, pid=pid, start_ticks=ticks, at=at))


fits: ExecutorApi = FakeExecutor()


def replace_run(run: wire.RunReport, **changes: Any) -> wire.RunReport:
    """Return a run's report with some fields changed."""
    facts = {name: getattr(run, name) for name in run.__struct_fields__}
    return wire.RunReport(**{**facts, **changes})


@dataclass
class World:
    """One node in virtual time."""

    settings: SupervisorSettings = SETTINGS
    retry: RetryPolicy = RETRY
    seed: int = 1
    elapsed: float = 0.0
    stepped: float = 0.0
    boot: str = "boot"
    executor: FakeExecutor = field(default_factory=FakeExecutor)
    bell: FakeBell = field(default_factory=FakeBell)
    files: Files | None = None
    caught_up: bool = True
    """Whether the daemon has read everything that waits."""

    def __post_init__(self) -> None:
        self.store: Store = self.opened()
        self.executor.clock, self.executor.wall = self.at, self.wall
        self.supervisor = self.fresh_supervisor()
        self.deadline = self.at()

    def opened(self) -> Store:
        """Return its store, at its time."""
        nowhere = Path("/nonexistent")
        return open_store(
            "sqlite://", state_dir=nowhere, patience=0.0, clock=self.clock(), bell=self.bell
        )

    def now(self) -> StoreTime:
        return StoreTime(EPOCH + round(self.at() * 1000) - 10_000_000)

    def clock(self) -> HostClock:
        return HostClock(self.wall, self.at, lambda: self.boot)

    def wall(self) -> WallTime:
        """Return what the host's clock shows."""
        return WallTime(self.now() + round(self.stepped * 1000))

    def step_clock(self, seconds: float) -> None:
        """Set the host's clock, as an operator does."""
        self.stepped += seconds

    def at(self) -> Instant:
        """Return the host's instant."""
        return Instant(10_000 + self.elapsed)

    def fresh_supervisor(self, **changes: Any) -> Supervisor:
        """Return a supervisor without memory, as after a restart."""
        self.settings = replace(self.settings, **changes)
        rng = random.Random(self.seed)
        self.supervisor = Supervisor(
            self.store, self.executor, self.settings, rng=rng, files=self.files
        )
        return self.supervisor

    def restart(self, **changes: Any) -> None:
        """Replace the daemon; the executor greets the new one."""
        self.executor.events.clear()
        self.fresh_supervisor(**changes)
        self.executor.greet()
        self.settle_down()

    def submit(self, *command: str, **facts: Any) -> int:
        """Submit a task and return its id."""
        task = NewTask(
            command=command or ("true",),
            **{"max_attempts": 3, "lease_ttl_ms": 60_000, **asdict(self.retry), **facts},
        )
        with self.store.transaction() as now:
            return self.store.submit([task], now=now)[0].task_id

    def start(self) -> World:
        """Let the executor greet the daemon, and tick until nothing more is due."""
        self.executor.greet()
        self.settle_down()
        return self

    def tick(self, *requests: Request) -> None:
        """Tick once, with the executor's new events and these requests of workers."""
        events, self.executor.events = self.executor.events, []
        self.deadline = self.supervisor.tick(
            events, requests, caught_up=self.caught_up, at=self.at()
        )

    def settle_down(self) -> None:
        """Tick until nothing more is due at this instant."""
        self.tick()
        while self.executor.events or self.deadline <= self.at():
            self.tick()

    def run_for(self, seconds: float) -> None:
        """Let time pass, from deadline to deadline."""
        end = self.elapsed + seconds
        while (step := self.deadline - 10_000) <= end + EXACT:
            self.elapsed = max(self.elapsed, step)
            self.settle_down()
        self.elapsed = max(self.elapsed, end)
        self.settle_down()

    def cancel(self, task_id: int) -> None:
        """Cancel a task as the command line does."""
        with self.store.transaction() as now:
            self.store.cancel(task_id, "cancelled by operator", now=now)

    def task(self, task_id: int) -> Task:
        with self.store.snapshot():
            task = self.store.task(task_id)
        assert task is not None
        return task

    def state(self, task_id: int) -> TaskState:
        return self.task(task_id).state

    def states_at(self, task_id: int, first: float, then: float) -> tuple[TaskState, TaskState]:
        """Return a task's state after some seconds, and that after some more."""
        self.run_for(first)
        early = self.state(task_id)
        self.run_for(then)
        return early, self.state(task_id)

    def runs(self, task_id: int) -> list[Run]:
        with self.store.snapshot():
            return self.store.runs(task_id)

    def uid(self, task_id: int) -> wire.RunUid:
        """Return the uid of a task's last run."""
        return self.runs(task_id)[-1].uid

    def gone(self, task_id: int, exit_code: int | None = 0, **facts: Any) -> None:
        """Let a task's running worker end, and the daemon receive it."""
        self.executor.gone(self.uid(task_id), exit_code, at=self.at(), **facts)
        self.settle_down()
