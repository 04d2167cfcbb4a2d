"""Fake agents under the daemon: the adapter's word is the run's end."""

import json
import sys
from typing import Any

from tests.e2e.world import World
from tests.unit.agents import fake_agent

WORKER = {"liveness": "worker", "lease_ttl": "1s"}


def submitted(world: World, kind: str, body: str, *options: str, **task: Any) -> int:
    """Submit a fake agent of its own, in the format of a kind."""
    directory = world.directory / f"agent-{len(list(world.directory.glob('agent-*')))}"
    directory.mkdir()
    adapter = [sys.executable, "-m", "worker_stub", "agent", "--kind", kind, *options, "--"]
    return world.submit(*adapter, fake_agent(directory, kind, body), **WORKER, **task)


def outcomes(task: dict[str, Any]) -> list[str]:
    return [run["outcome"] for run in task["runs"]]


def test_a_wedged_agent_is_lost_and_resumed_and_one_whose_events_go_on_is_not(
    world: World,
) -> None:
    """Its one tool blocks for longer than the lease, with events or without."""
    wedged = """
        if "--resume" not in sys.argv:
            say("cut")
            hang()
        say("healthy")
    """
    busy = """
        say("healthy", 5)
        for _ in range(8):
            time.sleep(0.2)
            write(b'{"type": "keep_alive"}\\n')
        say("healthy")
    """
    with world.daemon():
        lost = submitted(world, "claude", wedged)
        lives = submitted(world, "claude", busy)

        task = world.until(lost, "succeeded", "failed")
        assert ["lost", "succeeded"] == outcomes(task)
        assert "claude" == task["checkpoint"]["agent"]
        assert "All 12 tests pass." == task["result"]["text"]
        assert ["succeeded"] == outcomes(world.until(lives, "succeeded", "failed", "scheduled"))


def test_a_limit_costs_no_attempt_and_a_result_counts_though_the_agent_hangs(
    world: World,
) -> None:
    limited = """
        if "--resume" in sys.argv:
            say("healthy")
            exit(1)
        say("limit", 2)
        info = {"status": "rejected", "resetsAt": time.time() + 0.5}
        write(json.dumps({"type": "rate_limit_event", "rate_limit_info": info}).encode() + b"\\n")
        hang()
    """
    hangs = """
        import subprocess
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        say("healthy")
        hang()
    """
    with world.daemon():
        deferred = submitted(world, "claude", limited, "--linger", "0.1")
        done = submitted(world, "codex", hangs, "--linger", "0.1")
        unverified = submitted(
            world, "gemini", "say('healthy')", "--verify", "echo 1 failed; false", max_attempts=1
        )

        task = world.until(deferred, "succeeded", "failed")
        assert (["deferred", "succeeded"], 0) == (outcomes(task), task["attempts_used"])
        assert ["succeeded"] == outcomes(world.until(done, "succeeded", "failed"))
        failed = world.until(unverified, "failed")
        assert "not verified: exit code 1: 1 failed" in json.dumps(failed["runs"][0])
    world.expect_nobody()
