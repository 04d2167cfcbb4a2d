"""`dispatcher doctor` beside living processes."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.world import World

pytestmark = pytest.mark.timeout(60)


def looked(world: World, *, exits: int = 0) -> dict[str, tuple[str, str]]:
    told = world.cli("doctor", "--json", exits=exits).json
    return {one["check"]: (one["level"], one["said"]) for one in told}


def test_daemon_and_executor_are_asked_how_they_are(world: World) -> None:
    with world.daemon() as daemon:
        executor = daemon.executor()
        task_id = world.submit("sleep", "1000")
        daemon.expect("run.started", task_id=task_id)
        found = looked(world)
        assert ("ok", True) == (found["daemon"][0], f"pid {daemon.pid} " in found["daemon"][1])
        assert ("ok", True) == (
            found["executor"][0],
            f"pid {executor.pid} " in found["executor"][1],
        )
        assert "ok" == found["descriptors"][0]
        assert not {level for level, _ in found.values()} & {"bad"}
        daemon.signal(signal.SIGSTOP)
        try:
            frozen = looked(world, exits=1)
        finally:
            daemon.signal(signal.SIGCONT)
        assert ("bad", "one runs and does not answer") == frozen["daemon"]
        world.cli("cancel", task_id)
        daemon.expect("run.settled", task_id=task_id, outcome="cancelled")
        assert 1 == len(daemon.events("executor.connected"))  # nobody came in between


def test_a_missing_executor_is_named(world: World) -> None:
    world.configure(executor={"mode": "external"})
    with world.daemon():
        assert ("bad", "the daemon says: waiting") == looked(world, exits=1)["executor"]
