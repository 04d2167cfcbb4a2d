"""The cost of `dispatcher submit -- true`, compared with an interpreter that does nothing.

    python bench/submit.py [--runs 50] [--dir /var/tmp]

Both are started in turn, so that their ratio survives a busy machine. No daemon runs: a submit does
not wait for one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

DISPATCHER = str(Path(sys.executable).with_name("dispatcher"))

NOTHING = (sys.executable, "-c", "pass")


def seconds(command: Sequence[str], environ: dict[str, str]) -> float:
    """Return how long a command takes from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--dir", default="/var/tmp")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        config = Path(directory) / "dispatcher.toml"
        config.write_text(f'[node]\nstate_dir = "{directory}/state"\n')
        environ = {**os.environ, "DISPATCHER_CONFIG": str(config)}
        submit = (DISPATCHER, "submit", "--", "true")
        seconds(submit, environ)  # makes the store
        submits, nothings = [], []
        for _ in range(arguments.runs):
            submits.append(seconds(submit, environ))
            nothings.append(seconds(NOTHING, environ))
    p50, nothing = statistics.median(submits), statistics.median(nothings)
    print(f"submit -- true   p50 {1000 * p50:.0f} ms, longest {1000 * max(submits):.0f} ms")
    print(f"python -c pass   p50 {1000 * nothing:.0f} ms")
    print(f"ratio            {p50 / nothing:.1f}")


if __name__ == "__main__":
    main()
