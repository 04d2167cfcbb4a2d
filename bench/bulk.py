"""The cost of bulk work and large tables for others.

    python bench/bulk.py [--rows 1000000] [--dir /var/tmp]

A writer that has one row to write each 20 ms waits while others prune in its store, half of whose
tasks failed and are to stay, and while others submit a fifth as many tasks from a pipe; it waits
anyway, since its machine is busy, so the same is measured while a process spins. Then how long
`status` and `metrics` look at the store, to a look at each row of the tasks; and what `status`
makes of 5,000 queues that are paused, to as many that are not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path

from dispatcher.calendar import Calendar
from dispatcher.client import Client
from dispatcher.config.config import load
from dispatcher.model import Leases, PausedQueue, TaskState
from dispatcher.new_task import NewTask
from dispatcher.obstacles import Standing
from dispatcher.overview import Status
from dispatcher.store.api import Store
from dispatcher.store.open import open_store
from dispatcher.times import StoreTime

TASK = NewTask(command=("/bin/true",), max_attempts=3, lease_ttl_ms=60_000)

QUEUES = 5_000

# Two of three ready, as after many submits; of the others the first ones failed.
FINISH = """
UPDATE tasks SET state = CASE WHEN id % 3 <> 0 THEN state
        WHEN id < :rows / 2 THEN 'failed' ELSE 'succeeded' END,
    finished_at = CASE WHEN id % 3 <> 0 THEN NULL ELSE created_at END
"""
RUN = """
INSERT INTO runs (task_id, uid, attempt, fence, lock, node, liveness, lease_ttl_ms,
                  lease_expires_at, claimed_at, output_path, outcome, ended_at, reason)
SELECT id, lower(hex(randomblob(16))), 1, 1, '', 'n', 'process', 1, 1, 1, '/o', state, 1, ''
FROM tasks
WHERE finished_at IS NOT NULL
"""
EACH_ROW = "SELECT count(*) FROM tasks NOT INDEXED WHERE queue <> ''"


def fill(where: Path, rows: int) -> float:
    """Make so many tasks; return the CPU seconds of a look at each."""
    with closing(opened(where)) as store, store.transaction() as now:
        for _ in range(rows):
            store.submit([TASK], now=now)
    with closing(sqlite3.connect(where / "tasks.db")) as connection:
        connection.execute(FINISH, {"rows": rows})
        connection.execute(RUN)
        connection.commit()
        return cpu(lambda: connection.execute(EACH_ROW).fetchall())


def opened(where: Path) -> Store:
    """Return the store."""
    return open_store(f"sqlite://{where}/tasks.db", state_dir=where, patience=60.0)


def cpu(call: Callable[[], object]) -> float:
    """Return the least CPU seconds of five calls."""
    taken = []
    for _ in range(5):
        begin = time.process_time()
        call()
        taken.append(time.process_time() - begin)
    return min(taken)


def write(where: Path, stop: Event, into: multiprocessing.Queue[list[float]]) -> None:
    """Write one row each 20 ms until the stop; return how long each took."""
    store, taken = opened(where), []
    while not stop.wait(0.02):
        begin = time.perf_counter()
        with store.transaction() as now:
            store.resume("no queue", now=now)
        taken.append(time.perf_counter() - begin)
    into.put(taken)


def spin() -> None:
    """Use a processor for three seconds."""
    until = time.perf_counter() + 3.0
    while time.perf_counter() < until:
        pass


def waits(where: Path, during: Callable[[], object]) -> str:
    """Return how long a writer waits while something is done, p50, p99 and longest."""
    stop, into = multiprocessing.Event(), multiprocessing.Queue()
    writer = multiprocessing.Process(target=write, args=(where, stop, into))
    writer.start()
    during()
    stop.set()
    taken = sorted(1000 * seconds for seconds in into.get())
    writer.join()
    figures = statistics.median(taken), taken[len(taken) * 99 // 100], taken[-1]
    return " / ".join(f"{one:.1f}" for one in figures) + f" ms of {len(taken)}"


def memory(config: Path, lines: int) -> int:
    """Submit so many lines through a pipe; return the most memory that the client had, in MiB."""
    command = [sys.executable, "-m", "dispatcher", "submit", "--config", str(config), "--from", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as client:
        assert client.stdin is not None
        for number in range(lines):
            client.stdin.write(b'{"command": ["/bin/echo", "%d"]}\n' % number)
        client.stdin.close()
        _, status, usage = os.wait4(client.pid, 0)
        client.returncode = status
    assert status == 0
    return usage.ru_maxrss // 1024


def looked_at(paused: int) -> Status:
    """Return the status of many queues with a ready task each, of which some are paused."""
    queues = [f"q{number}" for number in range(QUEUES)]
    standing = Standing(
        calendar=Calendar(StoreTime(1), 0),
        paused={queue: PausedQueue(queue, "", StoreTime(1)) for queue in queues[:paused]},
        node=None,
        daemon="running",
        report=None,
    )
    return Status(
        standing=standing,
        counts={queue: {TaskState.READY: 1} for queue in queues},
        ready_since=dict.fromkeys(queues, StoreTime(1)),
        leases=Leases(0, None, None, None),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
        where = Path(folder)
        config = where / "dispatcher.toml"
        config.write_text(f'[node]\nstate_dir = "{where}"\n')
        each_row = fill(where, args.rows)
        with closing(opened(where)) as store, store.snapshot():
            for name in ("counts", "ready_since", "outcomes", "leases"):
                taken = cpu(getattr(store, name))
                print(f"{name:>12}: {1000 * taken:6.1f} ms, {taken / each_row:.2f} of each row")
        of_paused, of_none = (cpu(looked_at(paused).waiting) for paused in (QUEUES, 0))
        print(f"{QUEUES} paused queues: {of_paused / of_none:.1f} of as many that are not")
        print(f"a writer during one that spins: {waits(where, spin)}")
        with Client(load(str(config))) as client:

            def prune() -> None:
                pruned = client.prune(older_than_ms=0, states={TaskState.SUCCEEDED})
                print(f"pruned {pruned.tasks}")

            print(f"a writer during a prune: {waits(where, prune)}")

        def submit() -> None:
            print(
                f"submit --from of {args.rows // 5}: {memory(config, args.rows // 5)} MiB of memory"
            )

        print(f"a writer during a submit --from: {waits(where, submit)}")


if __name__ == "__main__":
    main()
