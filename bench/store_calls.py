"""CPU and wall time of each call of the store's hot path, in µs; one transaction per batch."""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dispatcher.execution import Settlement, StartedRun
from dispatcher.model import Outcome, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.open import open_store

BATCH = 50
ROUNDS = 100

spent: dict[str, float] = defaultdict(float)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Add the wall time of the body to `name`."""
    begun = time.perf_counter()
    yield
    spent[name] += time.perf_counter() - begun


def main(directory: Path, ready: int) -> None:
    """Run ROUNDS ticks of BATCH tasks on a database with `ready` more ready tasks."""
    store = open_store(f"sqlite://{directory}/tasks.db", state_dir=directory, patience=1)
    wanted = NewTask(command=("true",), max_attempts=3, lease_ttl_ms=60_000)
    with store.transaction() as now:
        store.submit([wanted] * ready, now=now)
    cpu = time.process_time()
    for _ in range(ROUNDS):
        with store.transaction() as now, timed("submit"):
            store.submit([wanted] * BATCH, now=now)
        with (
            timed("transaction of one submit, with its fsync (per tick)"),
            store.transaction() as now,
        ):
            store.submit([wanted], now=now)
        with timed("transaction of nothing (per tick)"), store.transaction():
            pass
        with store.transaction() as now:
            with timed("ready_queues (per tick)"):
                store.ready_queues(after="", limit=BATCH)
            with timed("claim"):
                claims = store.claim(
                    "default", limit=BATCH, node="n", output_dir="/var/lib/x/output", now=now
                )
        with store.transaction() as now, timed("record_started"):
            starts = [StartedRun(uid=claim.run_uid, pid=1, at=now) for claim in claims]
            store.record_started(starts, now=now)
        with store.transaction() as now:
            with timed("open_run"):
                runs = store.open_runs_among([claim.run_uid for claim in claims])
            settlements = [
                Settlement(
                    run_uid=run.run_uid, task_id=run.task_id, outcome=Outcome.SUCCEEDED,
                    state=TaskState.SUCCEEDED, run_reason="exit 0", reason="done", run_at=None,
                    attempts_used=0, deferrals=0, orphans=0, exit_code=0, output_tail="",
                    max_rss_bytes=1, cpu_seconds=0.1, ended_at=now,
                )
                for run in runs.values()
            ]  # fmt: skip
            with timed("settle"):
                store.settle(settlements, now=now)
        with store.transaction() as now, timed("move_due+next_due+endings (per tick)"):
            store.move_due(limit=100, now=now)
            store.next_due()
            store.endings("n")
    cpu = time.process_time() - cpu
    for name, seconds in spent.items():
        calls = ROUNDS if "per tick" in name else ROUNDS * BATCH
        print(f"{name:56} {seconds / calls * 1e6:8.1f} µs")
    print(f"{'CPU per task, all of it':56} {cpu / ROUNDS / BATCH * 1e6:8.1f} µs")
    store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as temporary:
        main(Path(temporary), int(sys.argv[1]) if len(sys.argv) > 1 else 0)
