"""The worker that misbehaves as its arguments require, and its outcomes that trees do not cover."""

import subprocess
import sys
from datetime import datetime

import pytest

from tests.e2e.helpers import expect_settled, misbehaves, submit_all
from tests.e2e.world import World


def test_r32_each_manner_has_its_outcome_and_disturbs_nobody(world: World) -> None:
    world.configure(node={"slots": 8})
    lease = {"liveness": "worker", "lease_ttl": "2s"}
    once = {"max_attempts": 1}
    beats = [sys.executable, "-m", "worker_stub", "run", "--", "sleep", "3"]
    with world.daemon() as daemon:
        diligent, flood, babbles, silent, fails, defers, quick = submit_all(
            world,
            {"command": beats, **lease, **once},
            {"command": misbehaves("--flood", "20M"), **once},
            {"command": misbehaves("--flood-beats", 1000), **once},
            {"command": misbehaves("--silent-after", "1s", "--times", 1), **lease},
            {"command": misbehaves("--exit", 7), "max_attempts": 2},
            {"command": misbehaves("--exit", 75, "--times", 2)},
            {"command": ["true"], **once},
        )
        expect_settled(daemon, [diligent, flood, babbles, quick], outcome="succeeded")
        expect_settled(daemon, [silent, defers], outcome="succeeded")
        expect_settled(daemon, [fails], state="failed")

    assert {
        diligent: ["succeeded"],
        flood: ["succeeded"],
        babbles: ["succeeded"],
        silent: ["lost", "succeeded"],
        fails: ["failed", "failed"],
        defers: ["deferred", "deferred", "succeeded"],
        quick: ["succeeded"],
    } == {
        task_id: [run["outcome"] for run in world.show(task_id)["runs"]]
        for task_id in (diligent, flood, babbles, silent, fails, defers, quick)
    }
    assert 20 * 2**20 == len(world.cli("logs", flood).stdout)
    lost = world.show(silent)["runs"][0]
    lasted = datetime.fromisoformat(lost["ended_at"]) - datetime.fromisoformat(lost["started_at"])
    assert lasted.total_seconds() >= 2.5  # it beats until 0.67 s at least
    assert 7 == world.show(fails)["runs"][0]["exit_code"]


@pytest.mark.parametrize(
    ("manner", "remedy"),
    [
        (("--silent-after", "2"), "'2' is not a time; write e.g. 2s or 500ms"),
        (("--flood", "lots"), "'lots' is not a size; write e.g. 64K or 100M"),
    ],
)
def test_an_unknown_argument_is_answered_with_the_remedy(
    manner: tuple[str, ...], remedy: str
) -> None:
    done = subprocess.run(misbehaves(*manner), capture_output=True, text=True, check=False)

    assert (2, True) == (done.returncode, remedy in done.stderr)
