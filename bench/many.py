"""How long very many sleepers take to start and to be cancelled, and what each costs.

    python bench/many.py [--tasks 5000] [--rounds 1] [--against CHECKOUT] [--dir /var/tmp]

The installed daemon, every guarantee on, with a slot for each task. The tasks wait in a paused
queue. Measured is the time from `resume` until the last has started, and from `cancel` of all until
the last is cancelled, and the CPU that daemon and executor use. `--against` measures another
checkout in the same rounds.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from leases import Daemon

TASK = b'{"command": ["sleep", "999"], "queue": "many", "max_attempts": 1}\n'
STARTED = "SELECT count(*) FROM runs WHERE outcome IS NULL AND pid NOTNULL"
CANCELLED = "SELECT count(*) FROM runs WHERE outcome = 'cancelled'"


class OfCheckout(Daemon):
    """The daemon of a checkout, and its command line."""

    def __init__(self, where: Path, slots: int, checkout: Path) -> None:
        super().__init__(where, slots)
        self._checkout = checkout

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, and wait for its executor."""
        process = subprocess.Popen(
            self._command("run"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._checkout,
        )
        while not psutil.Process(process.pid).children():
            time.sleep(0.05)
        return process

    def call(self, *words: str, given: bytes = b"") -> None:
        """Run a verb of its command line."""
        command, quiet = self._command(*words), subprocess.DEVNULL
        subprocess.run(command, check=True, input=given, stdout=quiet, cwd=self._checkout)

    def await_count(self, query: str, wanted: int) -> None:
        """Wait until a query counts so many."""
        while self.rows(query) != [(wanted,)]:
            time.sleep(0.05)

    def _command(self, verb: str, *words: str) -> list[str]:
        python = self._checkout / ".venv" / "bin" / "python"
        return [str(python), "-m", "dispatcher", verb, "--config", str(self.config), *words]


def timed(what: str, tasks: int, daemon: psutil.Process, do: Callable[[], None]) -> None:
    """Do something to all tasks; print its seconds, and the CPU for each."""
    both = {"daemon": daemon, "executor": daemon.children()[0]}
    before = {name: sum(one.cpu_times()[:2]) for name, one in both.items()}
    begin = time.monotonic()
    do()
    seconds = time.monotonic() - begin
    used = {name: sum(one.cpu_times()[:2]) - before[name] for name, one in both.items()}
    each = ", ".join(f"{name} {cpu / tasks * 1e6:5.0f} us" for name, cpu in used.items())
    print(f"{what:>10} {tasks}: {seconds:6.1f} s; CPU of each: {each}", flush=True)


def measure(tasks: int, folder: str, checkout: Path) -> None:
    """Measure one daemon."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as place:
        daemon = OfCheckout(Path(place), tasks, checkout)
        process = daemon.start()

        def start() -> None:
            daemon.call("resume", "many")
            daemon.await_count(STARTED, tasks)

        def cancel() -> None:
            daemon.call("cancel", "--queue", "many", "--yes")
            daemon.await_count(CANCELLED, tasks)

        try:
            daemon.call("pause", "many")
            daemon.call("submit", "--from", "-", given=TASK * tasks)
            timed("start", tasks, psutil.Process(process.pid), start)
            timed("cancel all", tasks, psutil.Process(process.pid), cancel)
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    """Measure the checkouts in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    for _ in range(args.rounds):
        for checkout in (args.against, Path(__file__).parents[1]):
            if checkout is not None:
                print(checkout)
                measure(args.tasks, args.dir, checkout)


if __name__ == "__main__":
    os.environ.pop("NOTIFY_SOCKET", None)
    main()
