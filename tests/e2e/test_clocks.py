"""Real processes on a host whose clock is set: the daemon's, and those of the command line."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.beating import LEASE, beating
from tests.e2e.helpers import python, stored
from tests.e2e.test_disturbed_leases import SILENT, expect_one_run_each
from tests.e2e.world import Daemon, World
from tests.eventually import eventually, let_pass

DAY = 86_400

PLAIN = ["sh", "-c", "while [ ! -e stop ]; do sleep 0.1; done"]

#: Shifts the wall clock of a Python process by the seconds in a file.
_SET_CLOCK = """
import os, time
_file, _real = os.environ.get("SHIFTED_BY"), time.time_ns
def _shifted():
    with open(_file) as file:
        return _real() + int(file.read() or 0) * 10**9
if _file:
    time.time_ns = _shifted
"""


class HostClock:
    """The host's clock as all commands with this environment see it."""

    def __init__(self, world: World) -> None:
        self._file: Path = world.directory / "shifted-by"
        self.set(0)
        (world.directory / "sitecustomize.py").write_text(_SET_CLOCK)
        self.env: Mapping[str, str] = {
            "PYTHONPATH": str(world.directory),
            "SHIFTED_BY": str(self._file),
        }

    def set(self, seconds: int) -> None:
        """Set it so many seconds ahead of the true time."""
        swapped = self._file.with_suffix(".new")
        swapped.write_text(str(seconds))
        swapped.replace(self._file)


@pytest.fixture
def clock(world: World) -> HostClock:
    clock = HostClock(world)
    world.env = {**world.env, **clock.env}
    return clock


#: Each write gets the mtime that a step ahead by nearly its `stall_timeout` would give it.
WRITES = python("""
    import os, time
    for _ in range(10):
        print("x", flush=True)
        long_ago = time.time() - 1.4
        os.utime(1, (long_ago, long_ago))
        time.sleep(0.2)
""")


def test_a_run_that_writes_is_not_stalled_whatever_the_mtime_of_its_output(world: World) -> None:
    with world.daemon():
        task = world.submit(*WRITES, stall_timeout="1500ms", max_attempts=1)
        world.until(task, "succeeded")


@pytest.mark.parametrize("step", [3600, -3600])
def test_r09_an_hour_on_the_wall_clock_costs_nobody_a_lease_and_prolongs_none(
    world: World, clock: HostClock, step: int
) -> None:
    with world.daemon() as daemon:
        diligent = world.submit(*beating(), **LEASE)
        plain = world.submit(*PLAIN, lease_ttl="1s")
        for task_id in (diligent, plain):
            daemon.expect("run.started", task_id=task_id)

        clock.set(step)

        stepped = daemon.expect("clock.stepped")
        assert step * 1000 == pytest.approx(stepped["gap_ms"], abs=1_000)
        silent = world.submit(*SILENT, **LEASE)
        expiries = stored(world, "SELECT lease_expires_at FROM runs WHERE outcome IS NULL")
        latest = time.time() * 1000 + 2_000
        assert all(expiry <= latest for (expiry,) in expiries)
        world.until(silent, "failed")
        assert [silent] == [event["task_id"] for event in daemon.events("lease.expired")]
        expect_one_run_each(world, diligent, plain)


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_clock_set_while_no_daemon_runs_costs_no_worker_its_lease(
    world: World, clock: HostClock, step: int
) -> None:
    with world.daemon(alone=False) as daemon:
        diligent = world.submit(*beating(), liveness="worker", lease_ttl="10m", max_attempts=1)
        silent = world.submit(*PLAIN, liveness="worker", lease_ttl="10m", max_attempts=1)
        for task_id in (diligent, silent):
            daemon.expect("run.started", task_id=task_id)
        daemon.kill()

    clock.set(step)

    with world.daemon() as daemon:
        daemon.expect("clock.stepped")
        lost = world.submit(*SILENT, liveness="worker", lease_ttl="300ms", max_attempts=1)
        world.until(lost, "failed")  # so leases have been looked at since
        assert [lost] == [event["task_id"] for event in daemon.events("lease.expired")]
        expect_one_run_each(world, diligent, silent)


def test_forty_days_ahead_for_a_while_delete_and_fail_nothing(
    world: World, clock: HostClock
) -> None:
    world.configure(**{"queues.hand": {"concurrency": 0}, "output": {"retention": "30d"}})
    with world.daemon() as daemon:
        done = world.submit("echo", "kept")
        world.until(done, "succeeded")
        hour = {"total_timeout": "1h", "queue_timeout": "1h", "queue": "hand"}
        waiting, claimed = world.submit("true", **hour), world.submit("true", **hour)
        later = world.submit("true", delay="1h")

        clock.set(40 * DAY)
        daemon.expect("clock.stepped")
        assert "deleted: 0 tasks" in world.cli("prune", "--older-than", "30d").stdout
        world.cli("claim", "--task", claimed, "--ttl", "30m")
        stepped = "the host's clock was set ahead by 40d at "
        assert stepped in world.cli("status").stdout
        assert stepped in world.cli("doctor").stdout
        let_pass(1.2)  # outputs are looked at each second
        clock.set(0)
        eventually(lambda: expect_steps(daemon, 2))
        world.until(world.submit("true"), "succeeded")  # it has looked around since

        gaps = [event["gap_ms"] for event in daemon.events("clock.stepped")]
        assert [40 * DAY * 1000, -40 * DAY * 1000] == pytest.approx(gaps, abs=1_000)
        states = [world.show(task)["state"] for task in (done, waiting, claimed, later)]
        assert ["succeeded", "ready", "running", "scheduled"] == states
        assert "kept\n" == world.cli("logs", done).stdout
        world.cli("cancel", claimed)


def expect_steps(daemon: Daemon, number: int) -> None:
    assert number == len(daemon.events("clock.stepped"))


def test_a_day_back_puts_no_back_off_and_no_delay_off(world: World, clock: HostClock) -> None:
    world.configure(retry={"backoff_min": "1s", "backoff_max": "1s"})
    with world.daemon() as daemon:
        failing = world.submit(*python("raise SystemExit(1)"), max_attempts=2)
        delayed = world.submit("true", delay="1s")
        daemon.expect("run.settled", task_id=failing)

        clock.set(-DAY)

        daemon.expect("clock.stepped")
        later = world.submit("true", delay="500ms")
        world.until(failing, "failed")
        for task_id in (delayed, later):
            world.until(task_id, "succeeded")
