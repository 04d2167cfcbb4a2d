"""From the decision to end a run until its whole tree is gone, an escaped grandchild included.

    python bench/kill.py [--runs 100] [--dir /var/tmp]

Leader and grandchild ignore SIGTERM; the grandchild was forked twice and has a session of its own.
Without a grace, the figure is the way from the committed ending (`run.ending` in the
log) to SIGKILL and death, as pidfds of both show it; and to `run.settled`, for which two scans of
the tree must agree and the store must have committed.
"""

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from dispatcher.client import Client
from dispatcher.config.config import load

TREE = """
trap '' TERM
(setsid sh -c 'echo $$ > "$0"; exec sleep 1000' "$1.grandchild" &)
echo $$ > "$1.leader"
exec sleep 1000
"""

#: Seconds until something that should happen at once is given up.
PATIENCE = 10.0


def moment(event: dict[str, Any]) -> float:
    """Return when an event was logged, in seconds since the epoch."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def until(found: Any) -> Any:
    """Return what is found, as soon as something is."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        if answer := found():
            return answer
        time.sleep(0.0005)
    raise SystemExit("it did not happen")


def pid_in(file: Path) -> int | None:
    """Return the pid that a file holds; None while there is none."""
    text = file.read_text() if file.exists() else ""
    return int(text) if text.endswith("\n") else None


class Log:
    """The daemon's log, read as it grows."""

    def __init__(self, file: Path) -> None:
        self._file = file.open()
        self._events: list[dict[str, Any]] = []

    def find(self, name: str, task_id: int) -> dict[str, Any] | None:
        """Return an event of a task, if it was logged."""
        here = self._file.tell()
        while (line := self._file.readline()).endswith("\n"):
            self._events.append(json.loads(line))
            here = self._file.tell()
        self._file.seek(here)  # the next look finds this line whole
        wanted = (name, task_id)
        return next((e for e in self._events if (e["event"], e.get("task_id")) == wanted), None)


def measure(client: Client, log: Log, where: Path) -> tuple[float, float]:
    """Return the milliseconds from an ending until the tree's death, and until the settle."""
    file = where / "pid"
    task_id = client.submit(command=["sh", "-c", TREE, "sh", str(file)]).task_id
    files = [file.with_suffix(".grandchild"), file.with_suffix(".leader")]
    handles = [os.pidfd_open(until(lambda f=f: pid_in(f))) for f in files]
    client.cancel(task_id)
    died = []
    for handle in handles:
        if not select.select([handle], [], [], PATIENCE)[0]:
            raise SystemExit("somebody lives on")
        died.append(time.time())
        os.close(handle)
    settled = moment(until(lambda: log.find("run.settled", task_id)))
    decided = moment(until(lambda: log.find("run.ending", task_id)))
    for pid_file in files:
        pid_file.unlink()
    return (max(died) - decided) * 1000, (settled - decided) * 1000


def main() -> None:
    """Measure one run after the other and print the distributions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
        where = Path(folder)
        config = where / "dispatcher.toml"
        config.write_text(
            f'[node]\nstate_dir = "{where}/state"\nruntime_dir = "{where}/run"\n'
            '[leases]\nkill_grace = "0s"\n[logs]\nformat = "json"\n'
        )
        with Client(load(str(config))) as client, (where / "log").open("wb") as out:
            command = [sys.executable, "-m", "dispatcher", "run", "--config", str(config)]
            daemon = subprocess.Popen(command, stdout=out, stderr=out)
            try:
                log = Log(where / "log")
                taken = [measure(client, log, where) for _ in range(args.runs)]
            finally:
                daemon.terminate()
                daemon.wait()
    for what, times in zip(("tree dead", "settled"), zip(*taken, strict=True), strict=True):
        print(
            f"decision to {what}: p50 {statistics.median(times):.1f} ms,"
            f" p95 {statistics.quantiles(times, n=20)[-1]:.1f} ms, max {max(times):.1f} ms"
        )


if __name__ == "__main__":
    main()
