"""The executor's CPU for one start, with few and with many live runs. No daemon, no store.

    python bench/starts.py [--live 500 5000] [--starts 300] [--dir /var/tmp]

Its runs are sleepers, 32 starts a message. The CPU is the executor's own and what its children use
until they are the program, of which the kernel needs most to copy its table of descriptors and to
close them: two of each live run.
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

    def start(self, count: int) -> None:
        """Start so many sleepers, and wait until each is reported."""
        for begin in range(0, count, TOGETHER):
            many = min(TOGETHER, count - begin)
            self._socket.sendall(b"".join(self._line() for _ in range(many)))
            for _ in range(many):
                self._next("started")

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        nanoseconds = Path(f"/proc/{self.process.pid}/schedstat").read_text("ascii").split()[0]
        return int(nanoseconds) / 1e9

    def close(self) -> None:
        """End it, and with it all its runs."""
        self._socket.close()
        self.process.terminate()
        self.process.wait()

    def _line(self) -> bytes:
        uid = uuid.uuid4().hex
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
                before = executor.cpu()
                executor.start(args.starts)
                each = (executor.cpu() - before) / args.starts * 1e6
                print(f"{wanted} live: {each:.0f} us of the executor's CPU a start", flush=True)
                live = wanted + args.starts
        finally:
            executor.close()


if __name__ == "__main__":
    os.environ.pop("NOTIFY_SOCKET", None)
    main()
