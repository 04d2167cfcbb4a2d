"""What a snapshot that another session holds costs a store on a server.

    python bench/snapshot.py --url postgresql://… [--running 500] [--rounds 60] [--tasks 3000]

The URL's role owns the database; the schemas `bench_*` are made there and removed. For each way to
store the tables: so many runs are beaten so many rounds while a snapshot is held, then tasks are
claimed and settled one by one, then the snapshot ends and VACUUM runs. Times are those of one
statement of all beats, and of one claim with its settle, at the begin and at the end.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from msgspec.structs import replace

from dispatcher.execution import Claim, Settlement
from dispatcher.model import Outcome, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store import storage
from dispatcher.store.api import Store
from dispatcher.store.open import open_store
from dispatcher.store.postgresql import PostgresqlEngine
from dispatcher.times import StoreTime
from dispatcher.words import Beat

TASK = NewTask(command=("/bin/true",), max_attempts=3, lease_ttl_ms=60_000)

#: Ways to store the tables: what follows CREATE TABLE.
WAYS = {
    "server's defaults": "",
    "runs 70": "ALTER TABLE runs SET (fillfactor = 70)",
    "runs 50": "ALTER TABLE runs SET (fillfactor = 50)",
    "as shipped": storage.STORAGE,
}

SIZES = """
SELECT pg_relation_size('runs') / 1024, pg_indexes_size('runs') / 1024,
    pg_relation_size('tasks') / 1024, pg_indexes_size('tasks') / 1024
"""

HOT = """
SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
WHERE schemaname = current_schema AND relname IN ('runs', 'tasks')
"""


def settled(claim: Claim, now: StoreTime) -> Settlement:
    """Return the settlement of a success."""
    return Settlement(
        run_uid=claim.run_uid,
        task_id=claim.task_id,
        outcome=Outcome.SUCCEEDED,
        run_reason="exit code 0",
        state=TaskState.SUCCEEDED,
        reason="exit code 0",
        run_at=None,
        attempts_used=1,
        deferrals=0,
        orphans=0,
        ended_at=now,
    )


def take(store: Store, queue: str, limit: int) -> list[Claim]:
    """Claim tasks of a queue."""
    with store.transaction() as now:
        return store.claim(queue, limit=limit, node="n", output_dir="/o", now=now)


def one_task(store: Store) -> float:
    """Claim and settle one task; return the seconds."""
    begin = time.perf_counter()
    (claim,) = take(store, "default", 1)
    with store.transaction() as now:
        store.settle([settled(claim, now)], now=now)
    return time.perf_counter() - begin


def beaten(store: Store, claims: list[Claim]) -> float:
    """Beat all runs at once; return the seconds."""
    beats = [Beat(task_id=one.task_id, lock=one.lock) for one in claims]
    begin = time.perf_counter()
    with store.transaction() as now:
        store.heartbeat(beats, now=now)
    return time.perf_counter() - begin


def filled(store: Store, running: int, tasks: int) -> list[Claim]:
    """Submit tasks and start some; return the claims of those."""
    for many, queue in ((running, "running"), (2 * tasks, "default")):
        for _ in range(0, many, 250):
            with store.transaction() as now:
                task = replace(TASK, queue=queue)
                store.submit([task] * min(250, many), now=now)
    return take(store, "running", running)


def shown(name: str, rows: list[tuple[Any, ...]]) -> None:
    """Print sizes of tables and indexes."""
    ((runs, runs_index, tasks, tasks_index),) = rows
    print(f"{name:>22}: runs {runs} + {runs_index} KiB, tasks {tasks} + {tasks_index} KiB")


def ends(times: list[float]) -> str:
    """Return the medians of the first and last tenth."""
    some = max(1, len(times) // 10)
    first, last = statistics.median(times[:some]), statistics.median(times[-some:])
    return f"{first * 1e3:.2f} -> {last * 1e3:.2f} ms"


def measured(url: str, way: str, args: argparse.Namespace) -> None:
    """Measure one way to store the tables."""
    PostgresqlEngine.dialect = replace(PostgresqlEngine.dialect, storage=WAYS[way])
    schema = "bench_snapshot"
    with psycopg.connect(url, autocommit=True) as other, tempfile.TemporaryDirectory() as place:
        other.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        opened = open_store(url, state_dir=Path(place), patience=30, schema=schema)
        other.execute(f"SET search_path = {schema}")
        with closing(opened) as store:
            claims = filled(store, args.running, args.tasks)
            other.execute(["VACUUM (ANALYZE) tasks", " "][0])
            other.execute("VACUUM (ANALYZE) runs")
            free = [one_task(store) for _ in range(args.tasks // 10)]
            print(f"\n{way}")
            shown("before", other.execute(SIZES).fetchall())
            with psycopg.connect(url) as holder:
                holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                holder.execute("SELECT txid_current_snapshot()")
                beats = [beaten(store, claims) for _ in range(args.rounds)]
                shown("after the beats", other.execute(SIZES).fetchall())
                tasks = [one_task(store) for _ in range(args.tasks)]
                shown("after the tasks", other.execute(SIZES).fetchall())
            for table in ("tasks", "runs"):
                other.execute(f"VACUUM {table}")
            after = [one_task(store) for _ in range(args.tasks // 10)]
            beats_after = [beaten(store, claims) for _ in range(10)]
        other.execute("SELECT pg_stat_force_next_flush()")
        for table, changed, hot in other.execute(HOT).fetchall():
            print(f"{table:>22}: {hot} of {changed} changes in the row's own page")
        print(f"{'all beats at once':>22}: {ends(beats)}; without the snapshot {ends(beats_after)}")
        print(f"{'claim and settle':>22}: {ends(tasks)}; before {ends(free)}, after {ends(after)}")
        other.execute(f"DROP SCHEMA {schema} CASCADE")


def main() -> None:
    """Measure each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--running", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=3000)
    args = parser.parse_args()
    for way in WAYS:
        measured(args.url, way, args)


if __name__ == "__main__":
    main()
