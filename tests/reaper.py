"""`python tests/reaper.py [COMMAND...]`: an init as hosts have one, which reaps every orphan.

With a command it is the parent of that process and of whatever loses its parent below it, and ends
when it has no child any more. Without one it is pid 1 of a namespace and never ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    first = os.posix_spawnp(command[0], command, os.environ) if command else 0
    code = 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            if command:
                return code
            signal.sigwait({signal.SIGCHLD})
            continue
        if pid == first:
            code = abs(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        if not sys.argv[1:]:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        sys.exit(main(sys.argv[1:]))
