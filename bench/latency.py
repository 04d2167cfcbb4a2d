"""From a client's submit to the first instruction of the worker, against a bare spawn.

    python bench/latency.py [--samples 300] [--dir /var/tmp]

An idle daemon with every guarantee on, and Python's `Client`; the bare spawn is `os.posix_spawn` of
the same program in the same process. They take turns. The worker reads the clock first of all.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from leases import Daemon

from dispatcher.client import Client
from dispatcher.config.config import load

HERE = Path(__file__).parent

#: Seconds between two samples, so that the daemon rests before each.
PAUSE = 0.02


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many percent of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


@contextmanager
def starters(where: Path) -> Iterator[dict[str, Callable[[], float]]]:
    """Give what starts a worker and returns the seconds until its first instruction."""
    program, fifo = where / "first", where / "fifo"
    subprocess.run(["cc", "-O2", "-o", program, HERE / "first.c"], check=True)
    os.mkfifo(fifo)
    command = (str(program), str(fifo))
    daemon = Daemon(where, slots=8)
    reader = os.open(fifo, os.O_RDWR)  # so that it never ends

    def seconds_since(begin: int) -> float:
        return (int(os.read(reader, 100)) - begin) / 1e9

    def spawned() -> float:
        begin = time.monotonic_ns()
        pid = os.posix_spawn(program, command, os.environ)
        seconds = seconds_since(begin)
        os.waitpid(pid, 0)
        return seconds

    with daemon.running():
        while not (where / "run" / "executor.sock").exists():
            time.sleep(0.05)
        with Client(load(str(daemon.config))) as client:

            def submitted() -> float:
                begin = time.monotonic_ns()
                client.submit(command=command)
                return seconds_since(begin)

            yield {"spawn": spawned, "submit": submitted}
    os.close(reader)


def measure(samples: int, folder: str) -> dict[str, list[float]]:
    """Return the seconds of each sample, by what started the worker."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as place,
        starters(Path(place)) as starts,
    ):
        found: dict[str, list[float]] = {name: [] for name in starts}
        for number in range(samples + 20):
            for name, start in starts.items():
                time.sleep(PAUSE)
                seconds = start()
                if number >= 20:  # the first ones make connections, files and caches
                    found[name].append(seconds)
        return found


def main() -> None:
    """Print percentiles and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    found = measure(args.samples, args.dir)
    for title, of in (
        ("p50", statistics.median),
        ("p99", lambda values: percentile(values, 99)),
    ):
        bare, ours = of(found["spawn"]) * 1000, of(found["submit"]) * 1000
        print(f"{title}: spawn {bare:.2f} ms, submit {ours:.2f} ms, ratio {ours / bare:.1f}")


if __name__ == "__main__":
    main()
