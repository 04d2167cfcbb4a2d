"""Processes that became another user's, as under `sudo`: the dispatcher may not signal them."""

import os
import shutil
import stat

import psutil
import pytest

from tests.e2e.helpers import expect_dead, expect_file, shell
from tests.e2e.users import belongs_to_a_user, needs
from tests.e2e.world import World
from tests.eventually import eventually


@pytest.fixture
def becomes_root(world: World) -> str:
    """A command in an ordinary user's world that begins with it runs as root: it is set-uid."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a set-uid program")
    setpriv = needs("setpriv", "util-linux")
    if os.statvfs(world.directory).f_flag & os.ST_NOSUID:
        pytest.skip(f"{world.directory} is mounted nosuid")
    belongs_to_a_user(world)
    program = world.directory / "becomes-root"
    shutil.copy(setpriv, program)
    program.chmod(0o755 | stat.S_ISUID)
    return f"{program} --reuid 0 --regid 0 --clear-groups"


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "leftover"])
def test_a_process_of_root_is_named_with_its_remedy_and_not_as_a_survivor(
    world: World, becomes_root: str, *, leads: bool
) -> None:
    noted = "echo $$ > pid.new; mv pid.new pid; exec sleep 1000"
    script = f"exec {becomes_root} sh -c '{noted}'"
    if not leads:
        script = f"{becomes_root} sh -c '{noted}' & until [ -e pid ]; do sleep 0.02; done"
    with world.daemon() as daemon:
        task_id = world.submit(*shell(script))
        theirs = psutil.Process(int(expect_file(world, "pid", lines=1)[0]))
        try:
            if leads:
                world.cli("cancel", task_id)
            why = (
                f"sleep ({theirs.pid}) belongs to root, and the dispatcher may not signal it:"
                f" sudo kill {theirs.pid}"
            )
            eventually(lambda: expect_sleeping(theirs))
            daemon.expect("worker.unsignalled", task_id=task_id, reason=why)
            assert why in world.cli("why", task_id).stdout
            daemon.expect("worker.unkillable", task_id=task_id, reason=why)
            assert f"it is not proved gone, and keeps its slot: {why}" in (
                world.cli("why", task_id).stdout
            )
            assert f"task {task_id}: {why}" in world.cli("doctor", exits=1).stdout
            assert why in world.cli("status").stdout
        finally:
            theirs.kill()
        expect_dead(theirs)
        daemon.expect("run.settled", task_id=task_id)
        assert not world.show(task_id)["runs"][0].get("leftovers")


def expect_sleeping(process: psutil.Process) -> None:
    assert "sleep" == process.name()
