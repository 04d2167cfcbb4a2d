"""What an idle daemon and its executor cost, on an embedded store or on a PostgreSQL server.

    python bench/idle.py [--server] [--seconds 60] [--dir /var/tmp]

CPU and wake-ups are those of both processes, after ten seconds in which they settle down. The
server counts its statements in its log: BEGIN and COMMIT too, and those of its listening session.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from noop import COMMAND  # noqa: E402 - of here

from tests import postgres  # noqa: E402 - of the checkout

TICKS = os.sysconf("SC_CLK_TCK")


def used(pid: int) -> tuple[float, int]:
    """Return the CPU seconds of a process, and how often it has slept."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    (slept,) = (line.split()[1] for line in status if line.startswith("voluntary_ctxt"))
    return sum(map(int, fields[11:13])) / TICKS, int(slept)


@contextmanager
def logging_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run a server that logs each statement; yield the section of its store, and its log."""
    postgres.SETTINGS["log_statement"] = "all"
    with postgres.running(folder / "files") as server:
        yield f'[store]\nurl = "{server.url()}"\n', server.directory / "log"


def statements(log: Path | None) -> int:
    """Return how many statements a server has logged; several of one exchange count each."""
    if log is None:
        return 0
    text = log.read_text("utf-8", errors="replace")
    simple = [line for line in text.splitlines() if "LOG:  statement: " in line]
    return text.count("LOG:  execute ") + sum(line.count("; ") + 1 for line in simple)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--dir", default="/var/tmp", help="where all files are made")
    args = parser.parse_args()
    tempfile.tempdir = args.dir
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idle-")))
        store, log = stack.enter_context(logging_server(folder)) if args.server else ("", None)
        config = folder / "dispatcher.toml"
        config.write_text(
            f'[node]\nstate_dir = "{folder}/state"\nruntime_dir = "{folder}/run"\n{store}'
            '[executor]\nmode = "external"\n[logs]\nformat = "json"\n'
        )
        verbs = ("executor", "run")
        with (folder / "log").open("wb") as out:
            programs = [
                subprocess.Popen([*COMMAND, verb, "--config", config], stdout=out, stderr=out)
                for verb in verbs
            ]
        time.sleep(10)
        before = [used(one.pid) for one in programs]
        counted = statements(log)
        time.sleep(args.seconds)
        after = [used(one.pid) for one in programs]
        counted = statements(log) - counted
        for program in reversed(programs):
            program.terminate()
            program.wait()
        for verb, (cpu, slept), (cpu_then, slept_then) in zip(verbs, before, after, strict=True):
            share = (cpu_then - cpu) / args.seconds
            print(
                f"{verb:8}  CPU {share:.2%}  wake-ups {(slept_then - slept) / args.seconds:.2f}/s"
            )
        if log is not None:
            print(f"statements {counted / args.seconds:.2f}/s")


if __name__ == "__main__":
    main()
