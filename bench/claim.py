"""Claim latency in a store of 1 k ready tasks, of 1 M ready and of 1 M scheduled ones.

    python bench/claim.py [--rows 1000000] [--claims 300] [--dir /var/tmp]

One claim is what the daemon does for one free slot: due tasks, queues, claim, commit. The
stores take turns, claim by claim, so that a noisy machine disturbs all alike. Ratios: of medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from dispatcher.new_task import NewTask
from dispatcher.store.api import Store
from dispatcher.store.open import open_store

TASK = NewTask(command=("/bin/true",), max_attempts=3, lease_ttl_ms=60_000)
LATER = NewTask(command=("/bin/true",), max_attempts=3, lease_ttl_ms=60_000, delay_ms=10**9)


def filled(where: Path, ready: int, scheduled: int) -> Store:
    """Return a store with so many tasks."""
    where.mkdir()
    store = open_store(f"sqlite://{where}/tasks.db", state_dir=where, patience=5.0)
    with store.transaction() as now:
        store.submit([TASK] * ready, now=now)
        store.submit([LATER] * scheduled, now=now)
    return store


def claim(store: Store) -> tuple[float, float]:
    """Return the seconds of one claim, without its commit and with it."""
    begin = time.perf_counter()
    with store.transaction() as now:
        store.move_due(limit=500, now=now)
        store.next_due()
        for queue in store.ready_queues(after="", limit=1):
            claims = store.claim(queue, limit=1, node="n", output_dir="/o", now=now)
        claimed = time.perf_counter()
    assert len(claims) == 1
    return claimed - begin, time.perf_counter() - begin


def main() -> None:
    """Measure in turns and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--claims", type=int, default=300)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
        where = Path(folder)
        stores = {
            "1 k ready": filled(where / "few", 1_000, 0),
            f"{args.rows} ready": filled(where / "ready", args.rows, 0),
            f"{args.rows} scheduled": filled(where / "scheduled", 1_000, args.rows),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in stores}
        for _ in range(args.claims):
            for name, store in stores.items():
                taken[name].append(claim(store))
        for store in stores.values():
            store.close()
    medians = {
        name: [statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in taken.items()
    }
    least = medians["1 k ready"]
    for name, (bare, whole) in medians.items():
        print(
            f"{name:>20}: {bare * 1e6:5.0f} us, ratio {bare / least[0]:.2f};"
            f" with its commit {whole * 1e6:5.0f} us, ratio {whole / least[1]:.2f}"
        )


if __name__ == "__main__":
    main()
