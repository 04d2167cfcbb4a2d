"""`python -m tests.busy`: every test, five times in a row, on a host that has no time for it.

python -m tests.busy                                # under four loops that never wait
python -m tests.busy --rounds 1 --loops 8 tests/e2e # and what else pytest is given
"""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack

#: Takes a core for itself, at the same priority as the tests, until its parent is gone.
_BUSY = "import os\nwhile os.getppid() == {parent}:\n    pass"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.busy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loops", type=int, default=4)
    options, others = parser.parse_known_args(arguments)
    pytest = [sys.executable, "-m", "pytest", "--numprocesses", "4", "--dist", "worksteal"]
    loop = [sys.executable, "-I", "-S", "-c", _BUSY.format(parent=os.getpid())]
    with ExitStack() as stack:
        for _ in range(options.loops):
            busy = stack.enter_context(subprocess.Popen(loop))
            stack.callback(busy.kill)
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}", flush=True)
            if code := subprocess.run([*pytest, *others], check=False).returncode:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
