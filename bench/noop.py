"""Full no-op tasks, every guarantee on, against a C loop of posix_spawn in the same run.

    python bench/noop.py [--tasks 10000] [--slots 8] [--rounds 3] [--dir /var/tmp]

Each round runs the C loop, the dispatcher and the C loop again; the ratio is to the mean of the
two. Rate: tasks per second from the first claim to the last settle. CPU: everything that daemon,
executor and their workers used, start and stop of both interpreters included.

Not on an ext4 filesystem where thousands of files were deleted in the last minutes: there a
new file costs 500 us instead of 14 us (measured), as the allocator steps over each inode that was
deleted recently.
"""

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

# Otherwise each start would compile all modules, for a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

HERE = Path(__file__).parent
COMMAND = (sys.executable, "-m", "dispatcher")

#: What `figures` needs from the table of runs.
FOUND = "count(*), min(claimed_at), max(ended_at) FROM {}runs WHERE outcome = 'succeeded'"


@dataclass
class Figures:
    """One measured run."""

    rate: float
    cpu_us: float
    """CPU per task."""


Measure = Callable[[int, int, Path], Figures]


def c_loop(program: Path, tasks: int, slots: int) -> Figures:
    """Measure the C loop."""
    out = subprocess.run([program, str(tasks), str(slots)], check=True, capture_output=True)
    wall, cpu = map(float, out.stdout.split())
    return Figures(tasks / wall, cpu / tasks * 1e6)


def submit(tasks: int, slots: int, where: Path, store: str = "") -> Path:
    """Submit no-op tasks; return the configuration, which has this section `store`."""
    config = where / "dispatcher.toml"
    config.write_text(
        f'[node]\nstate_dir = "{where}/state"\nruntime_dir = "{where}/run"\nslots = {slots}\n'
        f'{store}[executor]\nmode = "external"\n[logs]\nformat = "json"\n'
    )
    lines = "\n".join([json.dumps({"command": ["/bin/true"]})] * tasks)
    if store:  # on a server no submit makes it
        migrate = [*COMMAND, "migrate", "--config", str(config)]
        subprocess.run(migrate, check=True, stderr=subprocess.DEVNULL)
    command = [*COMMAND, "submit", "--config", str(config), "--from", "-"]
    subprocess.run(command, check=True, input=lines.encode(), stdout=subprocess.DEVNULL)
    return config


def drain(config: Path, where: Path) -> float:
    """Run all tasks; return the CPU seconds of daemon, executor and their workers."""
    with (where / "log").open("wb") as log:
        executor = subprocess.Popen([*COMMAND, "executor", "--config", str(config)], stderr=log)
        daemon = subprocess.Popen(
            [*COMMAND, "run", "--drain", "--config", str(config)], stdout=log, stderr=log
        )
        _, status, daemon_usage = os.wait4(daemon.pid, 0)
        executor.terminate()
        _, _, executor_usage = os.wait4(executor.pid, 0)
    if status != 0:
        raise SystemExit((where / "log").read_text("utf-8")[-2000:])
    return sum(one.ru_utime + one.ru_stime for one in (daemon_usage, executor_usage))


def figures(tasks: int, found: Sequence[int], cpu: float) -> Figures:
    """Return the figures of a run: `found` are how many succeeded, first claim and last end."""
    succeeded, first, last = found
    if succeeded != tasks:
        raise SystemExit(f"{succeeded} of {tasks} succeeded")
    return Figures(tasks / ((last - first) / 1000), cpu / tasks * 1e6)


def dispatcher(tasks: int, slots: int, where: Path) -> Figures:
    """Measure daemon and executor over a store of their own."""
    cpu = drain(submit(tasks, slots, where), where)
    store = sqlite3.connect(where / "state" / "tasks.db")
    found = store.execute(f"SELECT {FOUND.format('')}").fetchone()
    store.close()
    return figures(tasks, found, cpu)


def compare(
    title: str, measured: Callable[[argparse.Namespace, Path], AbstractContextManager[Measure]]
) -> None:
    """Measure C loop and dispatcher, interleaved, and print the ratios.

    `measured` prepares what the measurements share, given the options and a folder.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default="/var/tmp", help="where all files are made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
        program = Path(folder) / "spawn_loop"
        subprocess.run(["cc", "-O2", "-o", program, HERE / "spawn_loop.c"], check=True)
        rates, cpus = [], []
        with measured(args, Path(folder)) as measure:
            for number in range(args.rounds):
                where = Path(folder) / f"round{number}"
                where.mkdir()
                before = c_loop(program, args.tasks, args.slots)
                ours = measure(args.tasks, args.slots, where)
                after = c_loop(program, args.tasks, args.slots)
                rates.append(2 * ours.rate / (before.rate + after.rate))
                cpus.append(2 * ours.cpu_us / (before.cpu_us + after.cpu_us))
                print(
                    f"round {number + 1}: C {before.rate:.0f}/s {before.cpu_us:.0f} us,"
                    f" dispatcher {ours.rate:.0f}/s {ours.cpu_us:.0f} us,"
                    f" C {after.rate:.0f}/s {after.cpu_us:.0f} us"
                )
    print(f"rate ratio {statistics.median(rates):.2f}, CPU ratio {statistics.median(cpus):.2f}")


if __name__ == "__main__":
    compare(__doc__.splitlines()[0], lambda _args, _folder: nullcontext(dispatcher))
