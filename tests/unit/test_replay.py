"""A tick that the store refused is repeated in parts, which know what the whole one would know."""

from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.execution import LOCAL
from dispatcher.model import Declared, Liveness, TaskState
from dispatcher.supervisor.turn import Request
from dispatcher.words import Beat, Declaration
from tests.simulation import SETTINGS, World

#: A message that no store takes.
REFUSED = Beat(task_id=1, lock="none", note="a\udcffb")


def ends(world: World) -> list[str]:
    return [one.reason for one in world.executor.sent if isinstance(one, wire.End)]


def unanswered(message: Any) -> Request:
    return Request(message, lambda *_: None)


@pytest.mark.parametrize("timeout", ["start_timeout_ms", "stall_timeout_ms"])
@pytest.mark.parametrize("many", [0, 1])
def test_our_absence_costs_no_worker_its_run_also_if_a_message_is_refused(
    timeout: str, many: int
) -> None:
    world = World()
    facts = {timeout: 20_000, "lease_ttl_ms": 600_000}
    task_id = world.submit("work", liveness=Liveness.WORKER, **facts)
    world.start()
    world.run_for(5)

    world.elapsed += 60
    world.tick(*[unanswered(REFUSED)] * many)
    world.run_for(10)

    assert [] == ends(world)
    assert TaskState.RUNNING is world.state(task_id)
    world.run_for(11)
    assert 1 == len(ends(world))


@pytest.mark.parametrize("many", [0, 1])
def test_a_declared_local_claim_is_settled_at_once_also_if_a_message_is_refused(many: int) -> None:
    world = World(settings=replace(SETTINGS, concurrency={"hand": 0})).start()
    task_id = world.submit("work", queue="hand")
    with world.store.transaction() as now:
        claim = world.store.claim_local("hand", owner=f"{LOCAL}me", output_dir="/o", now=now)
    assert claim is not None
    world.run_for(1)

    done = Declaration(task_id=task_id, lock=claim.lock, word=Declared.SUCCEED)
    world.tick(unanswered(done), *[unanswered(REFUSED)] * many)

    assert TaskState.SUCCEEDED is world.state(task_id)
