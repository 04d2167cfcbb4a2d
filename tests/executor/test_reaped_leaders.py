"""A leader that somebody reaped after its executor's death vouches for nobody any more."""

import os
import signal
from pathlib import Path

import pytest

from dispatcher import wire
from tests.eventually import eventually
from tests.executor.conftest import Home
from tests.executor.daemon import Daemon
from tests.executor.workers import lives, pid_in

#: Waits for the gate, so that what follows comes after the last line of the journal. Then has a
#: child without environment and output, which stays in its session, and exits.
LEAVES_A_CHILD = """
    until [ -e "$1" ]; do sleep 0.02; done
    env -i sh -c 'exec <&- > /dev/null 2>&1
        echo $$ > "$0.new"; mv "$0.new" "$0"; exec sleep 1000' "$0" &
    until [ -e "$0" ]; do sleep 0.02; done
    until [ -e "$2" ]; do sleep 0.02; done
"""


@pytest.mark.parametrize("leader", ["reaped", "alive"])
def test_a_child_that_only_its_session_gives_away_is_swept_whenever_it_started(
    home: Home, daemon: Daemon, tmp_path: Path, leader: str
) -> None:
    pid_file, gate, end = (str(tmp_path / name) for name in ("pid", "gate", "end"))
    uid = daemon.start(["sh", "-c", LEAVES_A_CHILD, pid_file, gate, end], home.output())
    pid = daemon.expect(wire.Started, uid).pid
    Path(gate).touch()
    child = pid_in(Path(pid_file))
    home.processes[-1].send_signal(signal.SIGKILL)
    home.processes[-1].wait()
    if leader == "reaped":
        Path(end).touch()
        eventually(lambda: reap(pid))

    home.executor()
    later = home.daemon()

    assert not lives(child)
    assert "gone" == later.runs[uid].state


def reap(pid: int) -> None:
    """Do to an orphan of ours what init does."""
    assert (pid, 0) == os.waitpid(pid, os.WNOHANG)
