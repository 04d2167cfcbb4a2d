"""What a long history costs those who look at the queue.

    python bench/history.py [--finished 1000000] [--ready 10000] [--rounds 9] [--dir /var/tmp]

The median wall time of `list`, `status` and `metrics` on a store with so many finished tasks, with
none of them, and of `--version`, which needs no store, in turns.
"""

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from dispatcher.new_task import NewTask
from dispatcher.store.open import open_store

COMMAND = (sys.executable, "-m", "dispatcher")
VERBS = ("list", "status", "metrics")
TASK = NewTask(command=("/bin/true",), max_attempts=3, lease_ttl_ms=60_000)

COLUMNS = """reason, queue, priority, liveness, lease_ttl_ms, max_attempts, created_at, run_at,
    labels, env, command"""
FINISH = f"""
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :many)
INSERT INTO tasks (state, finished_at, {COLUMNS})
SELECT CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'succeeded' END, created_at + n, {COLUMNS}
FROM numbers, (SELECT * FROM tasks LIMIT 1)
"""
RUN = """
INSERT INTO runs (task_id, uid, attempt, fence, lock, node, liveness, lease_ttl_ms,
    lease_expires_at, claimed_at, output_path, outcome, ended_at, reason)
SELECT id, lower(hex(randomblob(16))), 1, 1, '', 'n', 'process', 1, 1, 1, '/o', state, 1, ''
FROM tasks WHERE finished_at IS NOT NULL
"""


def filled(where: Path, finished: int, ready: int) -> Path:
    """Make a store with so many tasks; return the configuration that names it."""
    where.mkdir()
    store = open_store(f"sqlite://{where}/tasks.db", state_dir=where, patience=60.0)
    with closing(store), store.transaction() as now:
        store.submit([TASK] * ready, now=now)
    with closing(sqlite3.connect(where / "tasks.db")) as connection:
        if finished:
            connection.execute(FINISH, {"many": finished})
            connection.execute(RUN)
            connection.commit()
    config = where / "dispatcher.toml"
    config.write_text(f'[node]\nstate_dir = "{where}"\nruntime_dir = "{where}/run"\n')
    return config


def seconds(*typed: str) -> float:
    begin = time.perf_counter()
    subprocess.run([*COMMAND, *typed], check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--ready", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    taken: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
        sizes = {
            many: filled(Path(folder) / str(many), many, args.ready) for many in (0, args.finished)
        }
        for _ in range(args.rounds):
            taken["--version"].append(seconds("--version"))
            for verb in VERBS:
                for many, config in sizes.items():
                    taken[f"{verb}, {many} finished"].append(seconds(verb, "--config", str(config)))
    least = statistics.median(taken["--version"])
    for what, times in taken.items():
        median = statistics.median(times)
        print(f"{what:>28}: {1000 * median:5.0f} ms, {median / least:.2f} of --version")


if __name__ == "__main__":
    main()
