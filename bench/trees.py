"""How long a small run waits for its end while a tree of thousands of processes is ended.

    python bench/trees.py [--processes 4000] [--dir /var/tmp]

The tree ignores SIGTERM; half of its parents have a session of their own. Small tasks follow each
other, first with the tree idle, then from its cancel until it has had its grace and is gone. The
figure is the longest way from claim to settle to the median before.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill import Log, moment, until

from dispatcher.client import Client
from dispatcher.config.config import load

#: Children of each parent.
BRANCH = 99

TREE = f"""
trap '' TERM
for i in $(seq $1); do
    sh -c 'for j in $(seq {BRANCH}); do sleep 1000 & done; echo >> '$2'; wait' &
    setsid sh -c 'for j in $(seq {BRANCH}); do sleep 1000 & done; echo >> '$2'; wait' &
done
wait
"""

#: Small tasks while the tree is idle.
ALONE = 40


def small(client: Client, log: Log) -> float:
    """Return the milliseconds from claim to settle of a task that does nothing."""
    task_id = client.submit(command=["true"]).task_id
    settled = moment(until(lambda: log.find("run.settled", task_id)))
    claimed = moment(until(lambda: log.find("task.claimed", task_id)))
    return (settled - claimed) * 1000


def measure(
    client: Client, log: Log, processes: int, grown: Path
) -> tuple[list[float], list[float], float]:
    """Return how long small tasks took before and during the end of a tree, and its seconds."""
    parents = max(1, processes // (2 * BRANCH + 2))
    grown.touch()
    tree = client.submit(command=["sh", "-c", TREE, "sh", str(parents), str(grown)]).task_id
    while grown.stat().st_size < 2 * parents:
        time.sleep(0.1)
    alone = [small(client, log) for _ in range(ALONE)]
    client.cancel(tree)
    during = []
    while (settled := log.find("run.settled", tree)) is None:
        during.append(small(client, log))
    ending = until(lambda: log.find("run.ending", tree))
    return alone, during, moment(settled) - moment(ending)


def main() -> None:
    """Measure one tree and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4000)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
        where = Path(folder)
        config = where / "dispatcher.toml"
        config.write_text(
            f'[node]\nstate_dir = "{where}/state"\nruntime_dir = "{where}/run"\nslots = 2\n'
            '[leases]\nkill_grace = "2s"\n[logs]\nformat = "json"\n'
        )
        with Client(load(str(config))) as client, (where / "log").open("wb") as out:
            command = [sys.executable, "-m", "dispatcher", "run", "--config", str(config)]
            daemon = subprocess.Popen(command, stdout=out, stderr=out)
            try:
                log = Log(where / "log")
                alone, during, took = measure(client, log, args.processes, where / "grown")
            finally:
                daemon.terminate()
                daemon.wait()
    usual = statistics.median(alone)
    print(
        f"a small run alone: p50 {usual:.1f} ms; {len(during)} of them while {args.processes}"
        f" processes are ended in {took:.1f} s: p50 {statistics.median(during):.1f} ms,"
        f" longest {max(during):.1f} ms"
    )
    print(f"longest to usual: {max(during) / usual:.0f}")


if __name__ == "__main__":
    main()
