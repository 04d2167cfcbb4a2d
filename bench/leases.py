"""How soon a beat is answered, and how soon after its ttl a silent worker is found out.

    python bench/leases.py [--workers 100] [--seconds 10] [--silent 50] [--dir /var/tmp]

The installed daemon, every guarantee on. Beats: each worker's comes over a connection of its own,
each 0.3 s, at phases of their own; the time from the first byte sent to the whole answer, which
follows the commit. Expiry: the time from the end of the lease, as the run's row has
it, to the log line of the decision; all the silent start at once, so many expire together.
"""

import argparse
import json
import random
import selectors
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path

INTERVAL = 0.3
SLEEPER = {"command": ["sleep", "999"], "liveness": "worker", "max_attempts": 1}


class Daemon:
    """A daemon with a store of its own."""

    def __init__(self, where: Path, slots: int) -> None:
        self.state = where / "state"
        self.socket = where / "run" / "worker.sock"
        self.log = where / "log"
        self.config = where / "dispatcher.toml"
        self.config.write_text(
            f'[node]\nstate_dir = "{self.state}"\nruntime_dir = "{where}/run"\nslots = {slots}\n'
            '[daemon]\ndrain_timeout = "1ms"\n[logs]\nformat = "json"\n'
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it while the block lasts, and end its workers with it."""
        command = [sys.executable, "-m", "dispatcher", "run", "--config", str(self.config)]
        with self.log.open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as done:
            try:
                yield
            finally:
                done.terminate()

    def submit(self, tasks: int, **options: object) -> None:
        """Submit so many sleepers, and wait until they run."""
        lines = "\n".join([json.dumps({**SLEEPER, **options})] * tasks)
        command = [sys.executable, "-m", "dispatcher", "submit", "--config", str(self.config)]
        subprocess.run(
            [*command, "--from", "-"],
            input=lines.encode(),
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Return rows of its database, once it is there."""
        path = f"file:{self.state}/tasks.db?mode=ro"
        with closing(sqlite3.connect(path, uri=True)) as store:
            return store.execute(query).fetchall()

    def until(self, query: str, count: int) -> list[tuple[object, ...]]:
        """Wait until a query returns so many rows."""
        while len(rows := self.rows(query)) < count:
            time.sleep(0.05)
        return rows


def answered(daemon: Daemon, workers: int, seconds: float) -> list[float]:
    """Beat for so many workers; return the seconds until each answer."""
    started = "SELECT task_id, lock FROM runs WHERE outcome IS NULL AND pid NOTNULL"
    claims = daemon.until(started, workers)[:workers]
    taken: list[float] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        now = time.monotonic()
        due: dict[socket.socket, float] = {}
        sent: dict[socket.socket, float] = {}
        lines: dict[socket.socket, bytes] = {}
        for task_id, lock in claims:
            stream = stack.enter_context(socket.socket(socket.AF_UNIX))
            stream.connect(str(daemon.socket))
            beat = {"op": "heartbeat", "task_id": task_id, "lock": lock}
            lines[stream] = json.dumps(beat).encode() + b"\n"
            due[stream] = now + random.uniform(0, INTERVAL)
            selector.register(stream, selectors.EVENT_READ)
        end = now + seconds
        while time.monotonic() < end:
            for stream in [s for s, at in due.items() if at <= time.monotonic()]:
                del due[stream]
                sent[stream] = time.monotonic()
                stream.sendall(lines[stream])
            wait = min(due.values(), default=end) - time.monotonic()
            for key, _ in selector.select(max(0.0, wait)):
                stream = key.fileobj
                assert isinstance(stream, socket.socket)
                answer = stream.recv(4096)
                taken.append(time.monotonic() - sent[stream])
                assert b'"ok":true' in answer, answer
                # Never in step with the answers of the others.
                due[stream] = sent.pop(stream) + INTERVAL * random.uniform(0.9, 1.1)
    return taken


def found_out(daemon: Daemon, silent: int) -> list[float]:
    """Let so many workers be silent; return the seconds from expiry to the decision."""
    daemon.submit(silent, lease_ttl="1s")
    ended = "SELECT task_id, lease_expires_at FROM runs WHERE outcome = 'lost'"
    expiries = dict(daemon.until(ended, silent))
    events = map(json.loads, daemon.log.read_text().splitlines())
    return [
        datetime.fromisoformat(event["timestamp"]).timestamp() - expiries[event["task_id"]] / 1000
        for event in events
        if event["event"] == "lease.expired"
    ]


def print_figures(what: str, seconds: list[float]) -> None:
    """Print how many, median, 99th percentile and the longest, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    median = statistics.median(ordered)
    print(
        f"{what:>32}: n {len(ordered):5}, p50 {median * 1e3:6.1f} ms,"
        f" p99 {p99 * 1e3:6.1f} ms, longest {ordered[-1] * 1e3:6.1f} ms"
    )


def main() -> None:
    """Measure one worker, many, and the silent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--silent", type=int, default=50)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    for workers in (1, args.workers):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
            daemon = Daemon(Path(folder), slots=workers)
            daemon.submit(workers, lease_ttl="60s")
            with daemon.running():
                print_figures(
                    f"beats of {workers}, answered", answered(daemon, workers, args.seconds)
                )
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
        daemon = Daemon(Path(folder), slots=args.silent)
        with daemon.running():
            time.sleep(1)
            print_figures("expiry, acted on after", found_out(daemon, args.silent))


if __name__ == "__main__":
    main()
