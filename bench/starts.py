"""What starts and endings cost with few and with many live runs. No daemon, no store.

    python bench/starts.py [--live 500 5000] [--starts 300] [--dir /var/tmp]

Its runs are sleepers, 32 starts or endings a message. The CPU is that of the executor's threads. A
start's seconds are those until it is reported, an ending's those until nothing of the run is left;
both include the processes' own CPU. At the end all runs are ended, as by `cancel` of all.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Starts sent together: as many as the executor handles in a tick.
TOGETHER = 32


class Executor:
    """An executor, and a connection to it that only starts runs."""

    def __init__(self, where: Path) -> None:
        self._where = where
        options = ("--state-dir", where / "state", "--runtime-dir", where / "run")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dispatcher.executor", *options, "--node-id", uuid.uuid4().hex],
            stderr=subprocess.DEVNULL,
        )
        (where / "state" / "output").mkdir(parents=True)
        door = where / "run" / "executor.sock"
        while not door.exists():
            time.sleep(0.05)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(door))
        self._lines = self._socket.makefile("rb")
        self._epoch = int(self._next("hello")["epoch"])
        self._next("hello_end")
        self._live: list[str] = []

    def start(self, count: int) -> None:
        """Start so many sleepers, and wait until each is reported."""
        for begin in range(0, count, TOGETHER):
            many = min(TOGETHER, count - begin)
            self._socket.sendall(b"".join(self._line() for _ in range(many)))
            for _ in range(many):
                self._next("started")

    def end_all(self) -> None:
        """End all sleepers, and wait until each is gone."""
        for begin in range(0, len(self._live), TOGETHER):
            uids = self._live[begin : begin + TOGETHER]
            ends = [{"type": "end", "uid": uid, "reason": "cancel"} for uid in uids]
            self._socket.sendall(b"".join(json.dumps(end).encode() + b"\n" for end in ends))
        for _ in self._live:
            self._next("exited")

    def cpu(self) -> float:
        """Return the seconds of CPU that its threads have used."""
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((one / "schedstat").read_text("ascii").split()[0]) for one in threads) / 1e9

    def close(self) -> None:
        """End it, and with it all its runs."""
        self._socket.close()
        self.process.terminate()
        self.process.wait()

    def _line(self) -> bytes:
        uid = uuid.uuid4().hex
        self._live.append(uid)
        start = {
            "type": "start",
            "uid": uid,
            "epoch": self._epoch,
            "command": ["/bin/sleep", "999"],
            "env": {},
            "output_path": str(self._where / "state" / "output" / f"{uid}.log"),
        }
        return json.dumps(start).encode() + b"\n"

    def _next(self, kind: str) -> dict[str, object]:
        while (message := json.loads(self._lines.readline()))["type"] != kind:
            if message["type"] == "start_failed":
                raise SystemExit(message["error"])
        return dict(message)


@contextmanager
def measured(executor: Executor, what: str, many: int) -> Iterator[None]:
    """Print what each of so many things cost."""
    cpu, begin = executor.cpu(), time.perf_counter()
    yield
    seconds = time.perf_counter() - begin
    each, wall = ((one / many * 1e6) for one in (executor.cpu() - cpu, seconds))
    print(
        f"{what}: {each:.0f} us of the executor's CPU, {wall:.0f} us; all {seconds:.1f} s",
        flush=True,
    )


def main() -> None:
    """Print the CPU for each start at each number of live runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--starts", type=int, default=300)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="b-", dir=args.dir) as folder:
        executor = Executor(Path(folder))
        try:
            live = 0
            for wanted in args.live:
                executor.start(wanted - live)
                with measured(executor, f"{wanted} live: a start", args.starts):
                    executor.start(args.starts)
                live = wanted + args.starts
            with measured(executor, f"{live} live: an ending", live):
                executor.end_all()
        finally:
            executor.close()


if __name__ == "__main__":
    os.environ.pop("NOTIFY_SOCKET", None)
    main()
