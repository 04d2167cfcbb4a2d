"""The daemon as the init of a container reaps orphans, and no process that it started."""

import subprocess
import sys

#: In a process of its own, whose other children nobody waits for.
_SCRIPT = """
import os
from dispatcher.daemon import children
from dispatcher.times import Instant

ours = children.start(["sh", "-c", "exit 3"])
orphan = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 4"], {})
for pid in (ours.pid, orphan):
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
assert children.INTERVAL + 7 == children.reap_orphans(Instant(7.0))
try:
    os.waitpid(orphan, os.WNOHANG)
except ChildProcessError:
    print("reaped", ours.wait())
"""


def test_an_orphan_is_reaped_and_our_own_child_keeps_its_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, check=False)

    assert (b"reaped 3\n", b"") == (done.stdout, done.stderr)
