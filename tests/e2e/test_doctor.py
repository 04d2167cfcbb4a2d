"""`dispatcher doctor` with living processes."""

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from dispatcher import wire
from tests.e2e.helpers import external_executor
from tests.e2e.world import World


def looked(
    world: World, *, exits: int = 0, env: Mapping[str, str] | None = None
) -> dict[str, tuple[str, str]]:
    findings = world.cli("doctor", "--json", exits=exits, env=env).json
    return {one["check"]: (one["level"], one["finding"]) for one in findings}


def test_doctor_reports_the_state_of_daemon_and_executor(world: World) -> None:
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


def test_an_upgrade_under_a_running_executor_is_reported(world: World) -> None:
    """The daemon was started anew since, the executor was not: its workers live on."""
    world.configure(executor={"mode": "external"})
    installed = world.directory / "installed"
    new = {"PYTHONPATH": str(installed)}
    with external_executor(world, alone=False):
        with world.daemon(alone=False) as old:
            old.expect("executor.connected")
            shutil.copytree(Path(wire.__file__).parent, installed / "dispatcher")
            upgraded = installed / "dispatcher" / "wire.py"
            upgraded.write_text(upgraded.read_text().replace(wire.RELEASE, "9.9.9", 1))
            before = looked(world, env=new)
        with world.daemon(env=new, alone=False) as daemon:
            daemon.expect("executor.connected")
            after = looked(world, env=new)
    runs = f"answers and runs release {wire.RELEASE}, not 9.9.9"
    assert [("warning", True)] * 2 == [
        (before[check][0], runs in before[check][1]) for check in ("daemon", "executor")
    ]
    assert (("ok", True), ("warning", True)) == (
        (after["daemon"][0], "release 9.9.9" in after["daemon"][1]),
        (after["executor"][0], runs in after["executor"][1]),
    )


def test_a_missing_executor_is_named(world: World) -> None:
    world.configure(executor={"mode": "external"})
    with world.daemon():
        text = "none is there, and the daemon waits for it"
        assert ("bad", text) == looked(world, exits=1)["executor"]
