"""The demo of two hosts that share a server."""

import subprocess
import sys

from tests.e2e.world import World


def test_the_demo_of_two_hosts_keeps_its_promises_and_leaves_nothing(world: World) -> None:
    world.runtime_dir.chmod(0o711)  # the server is another user's where we are root
    done = subprocess.run(
        [sys.executable, "-P", "-m", "dispatcher.demo.hosts"],
        env={**world.env, "TMPDIR": str(world.runtime_dir)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr), done.stdout
    story, promises = done.stdout.split("the promises:\n")
    assert "killed all processes of the second host (SIGKILL)" in story
    assert {"ok"} == {line.split()[0] for line in promises.splitlines()}
    assert 5 == len(promises.splitlines())
    assert [] == list(world.runtime_dir.iterdir())
    assert [] == world.processes()
