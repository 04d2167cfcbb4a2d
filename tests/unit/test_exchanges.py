"""How often a tick waits for a server does not depend on how many runs it is about.

A statement whose result is awaited costs the time of the way there and back. A transaction that
costs one for each of very many runs takes too long on a server far away, now and each time again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.errors import StoreUnavailable
from dispatcher.model import Declared, Liveness, TaskState
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.turn import Request
from dispatcher.words import Accepted, Declaration
from tests.simulation import SETTINGS, World, replace_run

FEW, MANY = 3, 40


class Far(World):
    """A world that counts the statements of each transaction whose results are awaited."""

    def __init__(self, many: int, **facts: Any) -> None:
        self.most = self.many = 0
        self.limit = math.inf
        """How many of them a transaction has time for."""
        super().__init__(settings=replace(SETTINGS, slots=many))
        self.tasks = [self.submit("work", **facts) for _ in range(many)]
        self.start()
        self.run_for(3)

    def opened(self) -> Any:
        store: Any = super().opened()
        engine = store.engine
        engine.dialect = replace(engine.dialect, shared=True)
        sound = {name: getattr(engine, name) for name in ("rows", "change", "begin")}
        engine.later = sound["change"]

        def counted(name: str) -> Callable[..., Any]:
            def call(*args: Any, **facts: Any) -> Any:
                self.many += 1
                self.most = max(self.most, self.many)
                if self.many > self.limit:
                    raise StoreUnavailable("the server did not answer in time")
                return sound[name](*args, **facts)

            return call

        def begin(*args: Any, **facts: Any) -> None:
            self.many = 0
            sound["begin"](*args, **facts)

        engine.rows, engine.change, engine.begin = counted("rows"), counted("change"), begin
        return store

    @property
    def ended(self) -> set[wire.RunUid]:
        return {one.uid for one in self.executor.sent if isinstance(one, wire.End)}


def timed_out(many: int) -> Far:
    return over(many, run_timeout_ms=60_000)


def stalled(many: int) -> Far:
    return over(many, stall_timeout_ms=60_000)


def lost(many: int) -> Far:
    return over(many, liveness=Liveness.WORKER, lease_ttl_ms=60_000)


def over(many: int, **facts: Any) -> Far:
    world = Far(many, **facts)
    world.most = 0
    world.run_for(90)
    assert many == len(world.ended)
    return world


def declarations(world: Far) -> list[Declaration]:
    return [
        Declaration(
            task_id=int(start.env["DISPATCHER_TASK_ID"]),
            lock=start.env["DISPATCHER_CLAIM_LOCK"],
            word=Declared.SUCCEED,
        )
        for start in world.executor.starts
    ]


def declared(many: int) -> Far:
    world = Far(many, liveness=Liveness.WORKER, lease_ttl_ms=600_000)
    for message in declarations(world):
        world.tick(Request(message, lambda *_: None))
    world.most = 0
    world.run_for(90)
    assert many == len(world.ended)
    return world


def stopped(many: int) -> Far:
    world = Far(many)
    world.most = 0
    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    world.run_for(30)
    assert many == len(world.ended)
    return world


def beaten(many: int) -> Far:
    world = Far(many, liveness=Liveness.WORKER, lease_ttl_ms=600_000)
    world.most = 0
    for uid in world.executor.runs:
        world.executor.events.append(wire.Notice(uid=uid, serial=1, beat=True))
    world.run_for(1)
    assert many == sum(isinstance(one, wire.Noted) for one in world.executor.sent)
    return world


EXITED: dict[str, Any] = {
    "state": wire.RunState.LEADER_EXITED,
    "exit": wire.Exit(at=0.0, exit_code=3),
    "ended_by": wire.EndedBy.RUN_TIMEOUT,
}


def changed(many: int) -> Far:
    world = Far(many)
    world.most = 0
    for uid in world.executor.runs:
        world.executor.events.append(wire.Changed(uid=uid, **EXITED))
    world.run_for(1)
    return recorded(world)


def greeted(many: int) -> Far:
    world = Far(many)
    runs = world.executor.runs
    runs.update({uid: replace_run(run, **EXITED) for uid, run in runs.items()})
    world.most = 0
    world.restart()
    return recorded(world)


def recorded(world: Far) -> Far:
    with world.store.snapshot():
        runs = world.store.open_runs(world.settings.node_id)
    assert [(3, "timed_out")] * len(world.tasks) == [(run.exit_code, run.ending) for run in runs]
    return world


def exited(many: int) -> Far:
    world = Far(many)
    world.most = 0
    for uid in [*world.executor.runs]:
        world.executor.gone(uid, 0, at=world.at())
    world.run_for(1)
    assert {TaskState.SUCCEEDED} == {world.state(one) for one in world.tasks}
    return world


def unfit(many: int) -> Far:
    """Their profile cannot be used."""
    world = Far(many)
    for uid in [*world.executor.runs]:
        world.executor.gone(uid, 0, at=world.at())
    world.run_for(1)
    start = replace(world.settings.start, unusable={"broken": "it is broken"})
    world.supervisor.reconfigure(replace(world.settings, start=start))
    tasks = [world.submit("work", profile="broken") for _ in range(many)]
    world.most = 0
    world.run_for(2)
    assert {TaskState.HELD} == {world.state(one) for one in tasks}
    return world


def stranded(many: int) -> Far:
    """Their executor died, and they live."""
    world = Far(many)
    world.executor.alive = dict.fromkeys(world.executor.runs, "sleep (7)")
    world.executor.die()
    world.executor.greet()
    world.settle_down()
    world.most = 0
    world.run_for(20)
    world.executor.alive.clear()
    world.executor.refusal = wire.StartFailed(
        uid=wire.RunUid("x"), fault=wire.Fault.TASK, error="no"
    )
    world.run_for(20)
    assert many == len([one for one in world.tasks if len(world.runs(one)) > 1])
    return world


KINDS = (
    *(timed_out, stalled, lost, declared, stopped, beaten, changed, greeted, exited, unfit),
    stranded,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_many_runs_cost_as_many_exchanges_as_few(kind: Callable[[int], Far]) -> None:
    assert kind(MANY).most <= kind(FEW).most


def test_what_very_many_workers_send_at_once_is_recorded_in_parts_after_a_failure() -> None:
    """Of their declarations each costs an exchange."""
    world = Far(200, liveness=Liveness.WORKER, lease_ttl_ms=600_000)
    world.limit = 100
    left = {message.task_id: message for message in declarations(world)}
    answers: list[object] = []

    def answered(message: Declaration) -> Request:
        def answer(found: object, _now: object) -> None:
            answers.append(found)
            if isinstance(found, Accepted):
                del left[message.task_id]

        return Request(message, answer)

    sent = 0
    for _ in range(4):  # a worker sends again what the store did not take
        sent += len(left)
        world.tick(*[answered(message) for message in left.values()])
        world.run_for(2)

    assert {} == left
    assert len(answers) == sent
    assert world.supervisor.report(at=world.at()).store_silent_for_s is None
