"""The system calls of the executor for one no-op task, counted by strace(1).

    python bench/syscalls.py [--tasks 500] [--slots 8] [--against CHECKOUT] [--dir /var/tmp]

Those of the executor itself, from the first start to the last task's end; its children's are not
counted. `--against` counts those of another checkout first. A count depends on how many tasks a
tick has, not on how fast the machine is.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from noop import COMMAND, submit


def counted(tasks: int, slots: int, where: Path) -> dict[str, int]:
    """Return how often the executor called what while it ran so many tasks."""
    config, summary = submit(tasks, slots, where), where / "strace"
    with (where / "log").open("wb") as log:
        executor = subprocess.Popen([*COMMAND, "executor", "--config", str(config)], stderr=log)
        while not (where / "run" / "executor.sock").exists():
            time.sleep(0.05)
        strace = subprocess.Popen(
            ["strace", "-c", "-o", summary, "-p", str(executor.pid)], stderr=subprocess.PIPE
        )
        assert strace.stderr is not None
        strace.stderr.readline()  # it is attached
        drain = [*COMMAND, "run", "--drain", "--config", str(config)]
        subprocess.run(drain, stdout=log, stderr=log, check=True)
        strace.send_signal(signal.SIGINT)
        strace.wait()
        executor.terminate()
        executor.wait()
    lines = [line.split() for line in summary.read_text("ascii").splitlines()]
    return {
        words[-1]: int(words[3])
        for words in lines
        if words[-1] != "total" and words[3:] and words[3].isdigit()
    }


def main() -> None:
    """Print the calls for each task, the most frequent first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    here = Path.cwd()
    for checkout in filter(None, (args.against, here)):
        os.chdir(checkout)
        os.environ["PYTHONPATH"] = str(checkout)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as folder:
            calls = counted(args.tasks, args.slots, Path(folder))
        each = {name: count / args.tasks for name, count in calls.items()}
        print(f"{checkout}: {sum(each.values()):.1f} a task")
        for name, count in sorted(each.items(), key=lambda item: -item[1]):
            if count >= 0.05:
                print(f"    {count:5.2f} {name}")


if __name__ == "__main__":
    sys.exit(main())
