"""One table of ratios and four plots, in less than five minutes: see README.md for every figure.

    python bench/table.py [--tasks 1500] [--rounds 3] [--plots bench/plots] [--dir /var/tmp]

All that is compared takes turns, and a ratio is to what ran just before and after it; a table has
their medians. A busy machine gets fewer rounds. Peers are those that are installed: xargs,
task-spooler, GNU parallel and Huey.
"""

import argparse
import datetime as dt
import importlib.util
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import latency
from claim import claim, filled
from noop import HERE, Figures, c_loop, dispatcher
from peers import PEERS
from starts import TOGETHER, Executor

Measure = Callable[[int, int, Path], Figures]

#: Slots of the table, and of the plot of rates.
SLOTS = (8, 32)
PLOTTED_SLOTS = (1, 2, 4, 8, 16, 32)

#: Ready tasks, and live workers, at which a claim and a start are measured.
QUEUES = (100, 1_000, 10_000, 100_000)
LIVE = (0, 100, 300, 1_000)

SAMPLES = 200

#: Seconds after which no further round begins.
LAST_ROUND = 60


class Turns:
    """Measures contestants and the C loop in turns."""

    def __init__(self, folder: Path, tasks: int) -> None:
        self._folder, self._tasks = folder, tasks
        self._program = folder / "spawn_loop"
        self._number = 0
        subprocess.run(["cc", "-O2", "-o", self._program, HERE / "spawn_loop.c"], check=True)

    def play(
        self, contestants: dict[str, Measure], slots: int, rounds: int
    ) -> dict[str, tuple[float, float]]:
        """Return the medians of each one's rate and CPU, to those of the C loop around it."""
        ratios = defaultdict[str, list[tuple[float, float]]](list)
        begin, before = time.monotonic(), c_loop(self._program, self._tasks, slots)
        for number in range(rounds):
            if number and time.monotonic() - begin > LAST_ROUND:
                break
            for name, measure in contestants.items():
                self._number += 1
                where = self._folder / str(self._number)
                ours = measure(self._tasks, slots, where)
                after = c_loop(self._program, self._tasks, slots)
                rate = 2 * ours.rate / (before.rate + after.rate)
                cpu = 2 * ours.cpu_us / (before.cpu_us + after.cpu_us)
                ratios[name].append((rate, cpu))
                before = after
        return {
            name: (statistics.median(rates), statistics.median(cpus))
            for name, found in ratios.items()
            for rates, cpus in [zip(*found, strict=True)]
        }


def ours(tasks: int, slots: int, where: Path) -> Figures:
    """Measure the dispatcher."""
    where.mkdir()
    return dispatcher(tasks, slots, where)


def claims(folder: Path) -> list[float]:
    """Return the median milliseconds of a claim with its commit, for each length of the queue."""
    stores = [filled(folder / f"queue{many}", many, 0) for many in QUEUES]
    found: list[list[float]] = [[] for _ in stores]
    for _ in range(60):
        for store, seconds in zip(stores, found, strict=True):
            seconds.append(claim(store)[1] * 1000)
    for store in stores:
        store.close()
    return [statistics.median(one) for one in found]


def starts(folder: Path) -> list[float]:
    """Return the executor's CPU of a start in ms, for each number of live workers."""
    where = folder / "starts"
    where.mkdir()
    executor, live, found = Executor(where), 0, []
    try:
        for many in LIVE:
            executor.start(many - live)
            before = executor.cpu()
            executor.start(2 * TOGETHER)
            found.append((executor.cpu() - before) / (2 * TOGETHER) * 1000)
            live = many + 2 * TOGETHER
    finally:
        executor.close()
    return found


def draw(plots: Path, name: str, labels: Sequence[str], lines: dict[str, object]) -> None:
    """Draw lines, each a list of points, into a PNG; `labels` are title, x and y."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only if it is installed

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for label, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 20 else "", label=label)
    title, x, y = labels
    axes.set(title=title, xlabel=x, ylabel=y, xscale="symlog" if name == "workers" else "log")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(plots / f"{name}.png", dpi=120)


def plot(plots: Path, found: dict[str, dict[str, object]]) -> str:
    """Draw all plots; return where they are, or why there are none."""
    titles = {
        "rate": ("No-op tasks", "slots", "rate, to a C loop of posix_spawn"),
        "latency": ("From submit to the first instruction", "ms", "part of the samples"),
        "queue": ("One claim, with its commit", "ready tasks", "ms"),
        "workers": ("One start", "live workers", "ms of the executor's CPU"),
    }
    if importlib.util.find_spec("matplotlib") is None:
        return "No plots: matplotlib is not installed (pip install --group bench)."
    plots.mkdir(parents=True, exist_ok=True)
    for name, lines in found.items():
        draw(plots, name, titles[name], lines)
    return f"Plots: {plots}/*.png"


def row(*cells: object) -> None:
    """Print a row of the table at once, as the next one takes a while."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def ratios(folder: Path, tasks: int, rounds: int) -> dict[str, object]:
    """Print the rows of no-op tasks; return the lines of rates by slots."""
    turns = Turns(folder, tasks)
    contestants: dict[str, Measure] = {"dispatcher": ours}
    contestants |= {name: measure for name, (measure, is_there) in PEERS.items() if is_there}
    row("no-op tasks, to a C loop of posix_spawn", *contestants)
    row(*["---"] * (len(contestants) + 1))
    for slots in SLOTS:
        found = turns.play(contestants, slots, rounds)
        for place, what in enumerate(("rate", "CPU")):
            row(f"{slots} slots: {what}", *(f"{found[name][place]:.2f}" for name in contestants))
    lines: dict[str, list[tuple[float, float]]] = {"dispatcher": [], "xargs": []}
    for slots in PLOTTED_SLOTS:
        few = {name: contestants[name] for name in lines if name in contestants}
        for name, (rate, _) in turns.play(few, slots, 1).items():
            lines[name].append((slots, rate))
    return {name: points for name, points in lines.items() if points}


def delays(folder: Path) -> dict[str, object]:
    """Print the rows of latency; return the lines of its distribution."""
    found = latency.measure(SAMPLES, str(folder))
    row("submit by client → first instruction", "submit", "bare spawn", "ratio")
    row(*["---"] * 4)
    for percent in (50, 99):
        both = [latency.percentile(found[name], percent) * 1000 for name in ("submit", "spawn")]
        row(f"p{percent}", *(f"{one:.2f} ms" for one in both), f"{both[0] / both[1]:.1f}")
    return {
        name: [(one * 1000, place / len(values)) for place, one in enumerate(sorted(values), 1)]
        for name, values in found.items()
    }


def growth(title: str, counts: Sequence[int], values: Sequence[float]) -> dict[str, object]:
    """Print a table of a cost by how many there are; return its line."""
    print()
    row(title, *counts)
    row(*["---"] * (len(counts) + 1))
    row("ms", *(f"{one:.2f}" for one in values))
    row("ratio", *(f"{one / values[0]:.2f}" for one in values))
    return {"dispatcher": list(zip(counts, values, strict=True))}


def main() -> None:
    """Measure all, print the tables and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plots", type=Path, default=HERE / "plots")
    parser.add_argument("--dir", default="/var/tmp", help="where all files are made")
    args = parser.parse_args()
    begin, load = time.monotonic(), os.getloadavg()[0]
    today = dt.datetime.now(tz=dt.UTC).date()
    print(f"{today}, {os.cpu_count()} cores, Linux {platform.release()}", end=", ")
    print(f"Python {platform.python_version()}, load before: {load:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as place:
        folder, found = Path(place), {}
        found["rate"] = ratios(folder, args.tasks, args.rounds)
        print()
        found["latency"] = delays(folder)
        found["queue"] = growth("one claim with its commit, ready tasks", QUEUES, claims(folder))
        found["workers"] = growth("one start, live workers", LIVE, starts(folder))
    print(f"\n{plot(args.plots, found)}\n{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
