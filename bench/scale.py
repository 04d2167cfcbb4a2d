"""How far a store on a server carries: rows, claims, beats, bytes, connections, daemons.

    python bench/scale.py --url postgresql://… [--rows 1000 1000000] [--blocked 1000 1000000]
        [--claims 200] [--hold 60] [--daemons 8]

The URL's role is a superuser of a server on this host, and the schemas `bench_*` are made and
removed there. Claims in stores of so many ready tasks take turns, also after a snapshot was held
for so many seconds in which tasks were submitted, claimed and settled one by one; so do claims
beside so many tasks of the queue that cannot be claimed; then bytes of the write-ahead log are
counted for each kind of transaction; then so many daemons share no-op tasks.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
from msgspec.structs import replace
from snapshot import TASK, settled

from dispatcher.execution import Claim, StartedRun
from dispatcher.new_task import NewTask
from dispatcher.store.api import Store
from dispatcher.store.open import open_store
from dispatcher.words import Beat

_COPIED = """reason, queue, priority, liveness, lease_ttl_ms, max_attempts, created_at, run_at,
    labels, env, command, requires, takes, lane, rank"""

COPIES = f"""
INSERT INTO tasks (state, blockers, {_COPIED})
SELECT %s, %s, {_COPIED} FROM tasks, generate_series(2, %s) WHERE id = 1
"""

#: Kinds of tasks that no daemon may claim: what is particular about each, its state and blockers.
BLOCKED: dict[str, tuple[dict[str, Any], str, int | None]] = {
    "waiting for parents": ({}, "waiting", 1),
    "requiring a label": ({"requires": {"gpu": "a100"}}, "ready", None),
    "behind a closed limit": ({"takes": {"provider": 1}}, "ready", None),
}


@contextmanager
def opened(url: str, schema: str) -> Iterator[Store]:
    """Give a fresh store in a schema, which is removed at the end."""
    with psycopg.connect(url, autocommit=True) as other, tempfile.TemporaryDirectory() as place:
        other.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        try:
            with closing(
                open_store(url, state_dir=Path(place), patience=30, schema=schema)
            ) as store:
                yield store
        finally:
            other.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def fill(
    url: str,
    schema: str,
    store: Store,
    rows: int,
    *,
    task: NewTask = TASK,
    state: str = "ready",
    blockers: int | None = None,
) -> str:
    """Let a store have so many tasks like this one; return their sizes."""
    with store.transaction() as now:
        store.submit([task], now=now)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(f"SET search_path = {schema}")
        other.execute(COPIES, [state, blockers, rows])
        other.execute("VACUUM (ANALYZE) tasks")
        row = other.execute(
            "SELECT pg_relation_size('tasks') / %s, pg_indexes_size('tasks') / %s", [rows, rows]
        ).fetchone()
    assert row is not None
    return f"{row[0]} bytes a task, {row[1]} in indexes"


def claim(store: Store) -> float:
    """Return the seconds of what a daemon does for one free slot, commit included."""
    begin = time.perf_counter()
    with store.transaction() as now:
        store.move_due(limit=500, now=now)
        store.next_due()
        for queue in store.ready_queues(after="", limit=1):
            (_,) = store.claim(queue, limit=1, node="n", output_dir="/o", now=now)
    return time.perf_counter() - begin


def turn(store: Store) -> float:
    """Submit, claim and settle a task; return the seconds of the claim."""
    with store.transaction() as now:
        store.submit([TASK], now=now)
    begin = time.perf_counter()
    with store.transaction() as now:
        (made,) = store.claim("default", limit=1, node="n", output_dir="/o", now=now)
    seconds = time.perf_counter() - begin
    with store.transaction() as now:
        store.settle([settled(made, now)], now=now)
    return seconds


def in_turns(stores: dict[int, Store], many: int, when: str) -> None:
    """Measure claims, and print their medians and the ratio to those in the smallest store."""
    taken: dict[int, list[float]] = {rows: [] for rows in stores}
    for _ in range(many):
        for rows, store in stores.items():
            taken[rows].append(claim(store))
    least = statistics.median(taken[min(stores)])
    for rows, times in taken.items():
        median = statistics.median(times)
        print(f"{rows:>12} tasks, {when}: claim {median * 1e6:.0f} us, ratio {median / least:.2f}")


def hold(url: str, stores: dict[int, Store], many: int, seconds: float) -> None:
    """Measure claims while a snapshot is held, after so many seconds of work."""
    with psycopg.connect(url) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT txid_current_snapshot()")
        done, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            for store in stores.values():
                turn(store)
            done += 1
        in_turns(stores, many, f"snapshot held for {seconds:.0f} s and {done} tasks")
    in_turns(stores, many, "snapshot gone")


def claims(url: str, sizes: list[int], many: int, held: float) -> None:
    """Measure claims in stores of different sizes, in turns."""
    with ExitStack() as stack:
        stores = {}
        for rows in sizes:
            schema = f"bench_{rows}"
            stores[rows] = stack.enter_context(opened(url, schema))
            print(f"{rows:>12} ready: {fill(url, schema, stores[rows], rows)}")
        in_turns(stores, many, "fresh")
        if held:
            hold(url, stores, many, held)


def blocked(url: str, sizes: list[int], many: int) -> None:
    """Measure claims beside so many tasks of each kind that cannot be claimed, in turns."""
    for kind, (facts, state, blockers) in BLOCKED.items():
        with ExitStack() as stack:
            stores = {}
            for rows in sizes:
                schema = f"bench_{rows}"
                store = stores[rows] = stack.enter_context(opened(url, schema))
                fill(
                    url,
                    schema,
                    store,
                    rows,
                    task=replace(TASK, **facts),
                    state=state,
                    blockers=blockers,
                )
                with store.transaction() as now:
                    store.close_limit("provider", "closed for good", now=now)
                    store.submit([TASK] * (many + 1), now=now)
            in_turns(stores, many, f"of them {kind}")


class Counted:
    """Bytes of the log, and the server's CPU, that kinds of work cost."""

    def __init__(self, url: str) -> None:
        self._other = psycopg.connect(url, autocommit=True)

    def __call__(self, name: str, many: int, work: Callable[[], object]) -> None:
        before, begin = self._written(), time.perf_counter()
        work()
        seconds = time.perf_counter() - begin
        size = (self._written() - before) / many
        print(f"{name:>32}: {size:.0f} bytes of log, {seconds / many * 1e6:.0f} us each")

    def _written(self) -> int:
        row = self._other.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
        ).fetchone()
        assert row is not None
        return int(row[0])


class Log:
    """Kinds of transactions, each with a batch of tasks."""

    def __init__(self, store: Store, tasks: int, batch: int) -> None:
        self._store, self._tasks, self._batch = store, tasks, batch
        self._held: list[Claim] = []

    def submit(self) -> None:
        for _ in range(self._tasks // self._batch):
            with self._store.transaction() as now:
                self._store.submit([TASK] * self._batch, now=now)

    def start(self) -> None:
        for _ in range(self._tasks // self._batch):
            with self._store.transaction() as now:
                made = self._store.claim(
                    "default", limit=self._batch, node="n", output_dir="/o", now=now
                )
            with self._store.transaction() as now:
                starts = [StartedRun(uid=one.run_uid, pid=1, at=now) for one in made]
                self._store.record_started(starts, now=now)
            self._held.extend(made)

    def beat(self) -> None:
        beats = [Beat(task_id=one.task_id, lock=one.lock, note="half way") for one in self._held]
        for _ in range(10):
            for at in range(0, self._tasks, self._batch):
                with self._store.transaction() as now:
                    self._store.heartbeat(beats[at : at + self._batch], now=now)

    def renew(self) -> None:
        for _ in range(10):
            with self._store.transaction() as now:
                self._store.renew("n", now=now)

    def settle(self) -> None:
        for at in range(0, self._tasks, self._batch):
            some = self._held[at : at + self._batch]
            with self._store.transaction() as now:
                self._store.settle([settled(one, now) for one in some], now=now)


def log_of(url: str, tasks: int = 1000, batch: int = 50) -> None:
    """Count what tasks and beats write."""
    counted = Counted(url)
    with opened(url, "bench_log") as store:
        log = Log(store, tasks, batch)
        counted(f"submit, {batch} together", tasks, log.submit)
        counted("claim and start", tasks, log.start)
        counted(f"heartbeat, {batch} together", 10 * tasks, log.beat)
        counted(f"renewal, {tasks} together", 10 * tasks, log.renew)
        counted("settle", tasks, log.settle)
        session = psutil.Process(_backend(store)).memory_full_info()
        print(f"{'a session of a daemon':>32}: {session.pss / 2**20:.1f} MiB (PSS)")


def _backend(store: Store) -> int:
    with store.snapshot():
        ((pid,),) = store.engine.rows("SELECT pg_backend_pid()")  # type: ignore[attr-defined]
    return int(pid)


def daemons(url: str, many: int, tasks: int) -> None:
    """Let so many daemons share no-op tasks; print their rate, by the runs' own stamps."""
    command = [sys.executable, "-m", "dispatcher"]
    with opened(url, "bench_daemons") as store, tempfile.TemporaryDirectory() as folder:
        configs = []
        for number in range(many):
            (place := Path(folder) / str(number)).mkdir()
            configs.append(place / "d.toml")
            configs[-1].write_text(
                f'[node]\nstate_dir = "{place}/s"\nruntime_dir = "{place}/r"\nslots = 4\n'
                f'[store]\nurl = "{url}"\nschema = "bench_daemons"\n'
            )
        lines = "\n".join([json.dumps({"command": ["/bin/true"]})] * tasks)
        submit = [*command, "submit", "--config", str(configs[0]), "--from", "-"]
        subprocess.run(submit, check=True, input=lines.encode(), stdout=subprocess.DEVNULL)
        running = [
            subprocess.Popen(
                [*command, "run", "--drain", "--config", str(config)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for config in configs
        ]
        assert [0] * many == [one.wait() for one in running]
        with store.snapshot():
            ((done, runs, nodes, first, last),) = store.engine.rows(  # type: ignore[attr-defined]
                "SELECT count(*), (SELECT count(*) FROM runs), count(DISTINCT node),"
                " min(claimed_at), max(ended_at) FROM runs WHERE outcome = 'succeeded'"
            )
    print(
        f"{many} daemons: {done} of {tasks} tasks succeeded in {runs} runs on {nodes} nodes,"
        f" {tasks / ((last - first) / 1000):.0f} a second"
    )


def main() -> None:
    """Measure in this order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 1_000_000])
    parser.add_argument("--blocked", type=int, nargs="*", default=[1000, 1_000_000])
    parser.add_argument("--claims", type=int, default=200)
    parser.add_argument("--hold", type=float, default=60.0)
    parser.add_argument("--daemons", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--tasks", type=int, default=4000)
    args = parser.parse_args()
    if args.rows:
        claims(args.url, args.rows, args.claims, args.hold)
    if args.blocked:
        blocked(args.url, args.blocked, args.claims)
    log_of(args.url)
    for many in args.daemons:
        daemons(args.url, many, args.tasks)


if __name__ == "__main__":
    main()
