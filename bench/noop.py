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
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass
class Figures:
    """One measured run."""

    rate: float
    cpu_us: float
    """CPU per task."""


def c_loop(program: Path, tasks: int, slots: int) -> Figures:
    """Measure the C loop."""
    out = subprocess.run([program, str(tasks), str(slots)], check=True, capture_output=True)
    wall, cpu = map(float, out.stdout.split())
    return Figures(tasks / wall, cpu / tasks * 1e6)


def dispatcher(tasks: int, slots: int, where: Path) -> Figures:
    """Measure daemon and executor over a store of their own."""
    config = where / "dispatcher.toml"
    config.write_text(
        f'[node]\nstate_dir = "{where}/state"\nruntime_dir = "{where}/run"\nslots = {slots}\n'
        '[executor]\nmode = "external"\n[logs]\nformat = "json"\n'
    )
    command = [sys.executable, "-m", "dispatcher"]
    lines = "\n".join([json.dumps({"command": ["/bin/true"]})] * tasks)
    submit = [*command, "submit", "--config", str(config), "--from", "-"]
    subprocess.run(submit, check=True, input=lines.encode(), stdout=subprocess.DEVNULL)
    with (where / "log").open("wb") as log:
        executor = subprocess.Popen([*command, "executor", "--config", str(config)], stderr=log)
        daemon = subprocess.Popen(
            [*command, "run", "--drain", "--config", str(config)], stdout=log, stderr=log
        )
        _, status, daemon_usage = os.wait4(daemon.pid, 0)
        executor.terminate()
        _, _, executor_usage = os.wait4(executor.pid, 0)
    if status != 0:
        raise SystemExit((where / "log").read_text()[-2000:])
    store = sqlite3.connect(where / "state" / "tasks.db")
    succeeded, first, last = store.execute(
        "SELECT count(*), min(claimed_at), max(ended_at) FROM runs WHERE outcome = 'succeeded'"
    ).fetchone()
    store.close()
    if succeeded != tasks:
        raise SystemExit(f"{succeeded} of {tasks} succeeded")
    usages = (daemon_usage, executor_usage)
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return Figures(tasks / ((last - first) / 1000), cpu / tasks * 1e6)


def main() -> None:
    """Measure, interleaved, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default="/var/tmp", help="where the state directories are made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
        program = Path(folder) / "spawn_loop"
        subprocess.run(["cc", "-O2", "-o", program, HERE / "spawn_loop.c"], check=True)
        rates, cpus = [], []
        for number in range(args.rounds):
            where = Path(folder) / str(number)
            where.mkdir()
            before = c_loop(program, args.tasks, args.slots)
            ours = dispatcher(args.tasks, args.slots, where)
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
    main()
