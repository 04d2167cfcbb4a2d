"""Fake agents under the daemon: the adapter's word is the run's end."""

import json
import shlex
import sys
from typing import Any

from tests.e2e.world import World
from tests.eventually import PATIENCE, eventually
from tests.unit.agents import fake_agent

ADAPTER = [sys.executable, "-m", "worker_stub", "agent"]
WORKER = {"liveness": "worker", "lease_ttl": "30s"}

#: A lease within which an agent starts, also on a slow host.
SHORT = "3s"


def submitted(world: World, kind: str, body: str, *options: str, **task: Any) -> int:
    """Submit a fake agent of its own, in the format of a kind."""
    directory = world.directory / f"agent-{len(list(world.directory.glob('agent-*')))}"
    directory.mkdir()
    adapter = [*ADAPTER, "--kind", kind, *options, "--"]
    return world.submit(*adapter, fake_agent(directory, kind, body), **{**WORKER, **task})


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
        for _ in range(18):
            time.sleep(0.2)
            write(b'{"type": "keep_alive"}\\n')
        say("healthy")
    """
    with world.daemon():
        lost = submitted(world, "claude", wedged, lease_ttl=SHORT)
        lives = submitted(world, "claude", busy, lease_ttl=SHORT)

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
    world.configure(**{"limits.anthropic": {"concurrency": 1}})
    closes = ("--linger", "0.1", "--limit", "anthropic")
    with world.daemon():
        deferred = submitted(world, "claude", limited, *closes, limit="anthropic")
        done = submitted(world, "codex", hangs, "--linger", "0.1")
        unverified = submitted(
            world, "gemini", "say('healthy')", "--verify", "echo 1 failed; false", max_attempts=1
        )

        task = world.until(deferred, "succeeded", "failed")
        assert (["deferred", "succeeded"], 0) == (outcomes(task), task["attempts_used"])
        closed = [one for one in world.cli("events", "--json").json if "closed" in json.dumps(one)]
        assert "anthropic" in json.dumps(closed), "others would have met it too"
        assert ["succeeded"] == outcomes(world.until(done, "succeeded", "failed"))
        failed = world.until(unverified, "failed")
        assert "not verified: exit code 1: 1 failed" in json.dumps(failed["runs"][0])
    world.expect_nobody()


def test_a_report_extends_a_claim_each_time_until_it_is_lost_which_ends_the_agent_with_79(
    world: World,
) -> None:
    """Its stream is silent meanwhile, so that only the calls of its tool renew the lease."""
    reports = """
        say("healthy", 1)
        tools = Tools()
        begun = time.monotonic()
        while time.monotonic() < begun + 3.5:
            assert 0 < tools.call("task_progress", note="on")["lease_expires_in"] <= 3
            time.sleep(0.1)
        assert "hold" == tools.call("task_hold", question="Which one?")["declared"]
        say("healthy")
    """
    goes_on = """
        tools = Tools()
        while True:
            tools.call("task_progress", note="on")
            time.sleep(0.02)
    """
    mine = world.cli("submit", "-q", "mine", "--", "true").id
    exported = world.cli("claim", "--queue", "mine", "--export").stdout.splitlines()
    words = [shlex.split(line) for line in exported]
    claim = dict(line[1].split("=", 1) for line in words if line[0] == "export")
    with world.daemon() as daemon:
        asks = submitted(world, "claude", reports, lease_ttl=SHORT)
        (run,) = world.until(asks, "held", "scheduled")["runs"]
        assert "held" == run["outcome"]
        (waits,) = world.cli("inbox", "--json").json
        assert (asks, "Which one?") == (waits["id"], waits["question"])

        daemon.expect("executor.connected")
        adapter = world.process_of(
            [*ADAPTER, "--kind", "codex", "--", fake_agent(world.directory, "codex", goes_on)],
            env={**world.env, **claim},
            cwd=world.directory,
        )
        eventually(lambda: equal("on", world.show(mine)["runs"][0]["note"]))
        world.cli("cancel", mine)

        assert 79 == adapter.wait(PATIENCE)
    world.expect_nobody()


def equal(expected: object, found: object) -> None:
    assert expected == found
