"""What daemon and executor inherit from their parent: blocked signals, closed descriptors."""

import os
import sys

import pytest

from tests.e2e.helpers import external_executor
from tests.e2e.world import World

#: Begins a command with SIGTERM and SIGINT blocked: a mask outlives exec.
BLOCKING = (
    sys.executable,
    "-c",
    """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
os.execvp(sys.argv[1], sys.argv[1:])
""",
)


def test_a_daemon_whose_starter_blocked_its_signals_is_stopped_by_sigterm(world: World) -> None:
    world.prefix = BLOCKING
    with world.daemon() as daemon:
        daemon.executor()
        daemon.terminate()

        assert 0 == daemon.wait()


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_an_executor_with_closed_descriptors_works_and_keeps_its_files_out_of_them(
    world: World, closed: str
) -> None:
    world.configure(executor={"mode": "external"})
    prefix = ("sh", "-c", f'exec "$@" {closed}', "sh")
    with external_executor(world, prefix=prefix), world.daemon(alone=False) as daemon:
        executor = daemon.executor()
        task_id = world.submit("echo", "hello")
        world.until(task_id, "succeeded")

        standard = [os.readlink(f"/proc/{executor.pid}/fd/{number}") for number in range(3)]
        assert os.devnull == standard[2]
        assert [] == [path for path in standard if path.startswith(str(world.state_dir))]
        assert "hello\n" == world.cli("logs", task_id).stdout


def test_a_daemon_with_closed_descriptors_keeps_its_files_out_of_them(world: World) -> None:
    world.prefix = ("sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh")
    with world.daemon(started=False) as daemon:
        world.prefix = ()
        task_id = world.submit("true")
        world.until(task_id, "succeeded")

        fds = [os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in range(3)]
        assert [os.devnull] * 3 == fds
