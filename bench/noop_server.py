"""Full no-op tasks on a PostgreSQL server, against a C loop of posix_spawn in the same run.

    python bench/noop_server.py [--tasks 10000] [--slots 8] [--rounds 3] [--dir /var/tmp]

As `noop.py`. CPU is that of daemon, executor, their workers and every process of the server, which
is on this machine and syncs each commit to the disk.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from noop import HERE, Figures, c_loop  # noqa: E402 - of this directory

from tests import postgres  # noqa: E402 - of the checkout

TICKS = os.sysconf("SC_CLK_TCK")


def server_cpu(server: postgres.Postgres) -> float:
    """Return the CPU seconds of a server's processes, living and ended."""
    stats = [Path(f"/proc/{server.pid}/stat")]
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text("ascii").split()
    stats += [Path(f"/proc/{child}/stat") for child in children]
    used = 0
    for stat in stats:
        fields = stat.read_text("utf-8").rpartition(")")[2].split()
        # Of the children of sessions there are none; those of the server are its ended sessions.
        used += sum(map(int, fields[11:15]))
    return used / TICKS


def dispatcher(tasks: int, slots: int, where: Path, server: postgres.Postgres) -> Figures:
    """Measure daemon, executor and server over a schema of their own."""
    config = where / "dispatcher.toml"
    config.write_text(
        f'[node]\nstate_dir = "{where}/state"\nruntime_dir = "{where}/run"\nslots = {slots}\n'
        f'[store]\nurl = "{server.url()}"\nschema = "{where.name}"\n'
        '[executor]\nmode = "external"\n[logs]\nformat = "json"\n'
    )
    command = [sys.executable, "-m", "dispatcher"]
    lines = "\n".join([json.dumps({"command": ["/bin/true"]})] * tasks)
    submit = [*command, "submit", "--config", str(config), "--from", "-"]
    subprocess.run(submit, check=True, input=lines.encode(), stdout=subprocess.DEVNULL)
    before = server_cpu(server)
    with (where / "log").open("wb") as log:
        executor = subprocess.Popen([*command, "executor", "--config", str(config)], stderr=log)
        daemon = subprocess.Popen(
            [*command, "run", "--drain", "--config", str(config)], stdout=log, stderr=log
        )
        _, status, daemon_usage = os.wait4(daemon.pid, 0)
        executor.terminate()
        _, _, executor_usage = os.wait4(executor.pid, 0)
    if status != 0:
        raise SystemExit((where / "log").read_text("utf-8")[-2000:])
    cpu = server_cpu(server) - before
    ((succeeded, first, last),) = server.sql(
        "SELECT count(*), min(claimed_at), max(ended_at)"
        f" FROM {where.name}.runs WHERE outcome = 'succeeded'"
    )
    if succeeded != tasks:
        raise SystemExit(f"{succeeded} of {tasks} succeeded")
    usages = (daemon_usage, executor_usage)
    ours = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    print(f"  server {cpu / tasks * 1e6:.0f} us, daemon and executor {ours / tasks * 1e6:.0f} us")
    return Figures(tasks / ((last - first) / 1000), (ours + cpu) / tasks * 1e6)


def main() -> None:
    """Measure, interleaved, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default="/var/tmp", help="where all files are made")
    args = parser.parse_args()
    durable = {"fsync": "on", "full_page_writes": "on", "autovacuum": "on"}
    postgres.SETTINGS.update({**durable, "shared_buffers": "128MB"})
    tempfile.tempdir = args.dir
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        program = Path(folder) / "spawn_loop"
        subprocess.run(["cc", "-O2", "-o", program, HERE / "spawn_loop.c"], check=True)
        rates, cpus = [], []
        with postgres.running(Path(folder) / "files") as server:
            for number in range(args.rounds):
                where = Path(folder) / f"round{number}"
                where.mkdir()
                before = c_loop(program, args.tasks, args.slots)
                ours = dispatcher(args.tasks, args.slots, where, server)
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
