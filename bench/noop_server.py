"""Full no-op tasks on a PostgreSQL server, against a C loop of posix_spawn in the same run.

    python bench/noop_server.py [--tasks 10000] [--slots 8] [--rounds 3] [--dir /var/tmp]

As `noop.py`. CPU is that of daemon, executor, their workers and every process of the server, which
is on this machine and syncs each commit to the disk.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from noop import FOUND, Figures, Measure, compare, drain, figures, submit  # noqa: E402 - of here

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


def dispatcher(server: postgres.Postgres, tasks: int, slots: int, where: Path) -> Figures:
    """Measure daemon, executor and server over a schema of their own."""
    store = f'[store]\nurl = "{server.url()}"\nschema = "{where.name}"\n'
    config = submit(tasks, slots, where, store)
    before = server_cpu(server)
    ours = drain(config, where)
    cpu = server_cpu(server) - before
    (found,) = server.sql(f"SELECT {FOUND.format(f'{where.name}.')}")
    print(f"  server {cpu / tasks * 1e6:.0f} us, daemon and executor {ours / tasks * 1e6:.0f} us")
    return figures(tasks, found, ours + cpu)


@contextmanager
def measured(args: argparse.Namespace, folder: Path) -> Iterator[Measure]:
    """Run a server that loses nothing in a crash of this machine."""
    durable = {"fsync": "on", "full_page_writes": "on", "autovacuum": "on"}
    postgres.SETTINGS.update({**durable, "shared_buffers": "128MB"})
    tempfile.tempdir = args.dir
    with postgres.running(folder / "files") as server:
        yield partial(dispatcher, server)


if __name__ == "__main__":
    compare(__doc__.splitlines()[0], measured)
