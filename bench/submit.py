"""The cost of short commands, compared with an interpreter that does nothing.

    python bench/submit.py [--runs 50] [--dir /var/tmp] [--against OTHER/bin/dispatcher]

All are started in turn, so that their ratios survive a busy machine: with `--against`, the commands
of another installation too. No daemon runs: a submit does not wait for one.
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

#: What people and scripts call again and again; task 1 is there.
COMMANDS = (
    ("submit", "--", "true"),
    ("list",),
    ("show", "1"),
    ("why", "1"),
    ("status",),
    ("wait", "--timeout", "0s", "1"),
    ("hold", "1"),
    ("--version",),
)


def seconds(command: Sequence[str], environ: dict[str, str]) -> float:
    """Return how long a command takes from its start to its end."""
    began = time.perf_counter()
    subprocess.run(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--against", help="the command of another installation")
    arguments = parser.parse_args()
    others = (arguments.against,) if arguments.against else ()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        config = Path(directory) / "dispatcher.toml"
        config.write_text(f'[node]\nstate_dir = "{directory}/state"\n')
        environ = {**os.environ, "DISPATCHER_CONFIG": str(config)}
        subprocess.run((DISPATCHER, *COMMANDS[0]), env=environ, stdout=-3, stderr=-3, check=True)
        for words in COMMANDS:
            measure(words, (DISPATCHER, *others), arguments.runs, environ)


def measure(
    words: Sequence[str], programs: Sequence[str], runs: int, environ: dict[str, str]
) -> None:
    """Print the median of a command with each program, and its ratio to an idle interpreter."""
    commands = [NOTHING, *((program, *words) for program in programs)]
    taken = [[seconds(one, environ) for one in commands] for _ in range(runs)]
    nothing, *p50s = (statistics.median(times) for times in zip(*taken, strict=True))
    shown = ", against ".join(f"{1000 * p50:4.0f} ms {p50 / nothing:5.1f}" for p50 in p50s)
    print(f"{' '.join(words):26} {shown}    (python -c pass: {1000 * nothing:.0f} ms)", flush=True)


if __name__ == "__main__":
    main()
