"""What heartbeats cost the daemon: CPU at a steady pace, and the most that it answers.

    python bench/beats.py [--workers 500] [--connections 1000] [--seconds 10] [--rounds 3]
        [--against CHECKOUT] [--dir /var/tmp]

The installed daemon, every guarantee on. Steady: each worker beats four times a second over one
connection, which it makes again when the daemon has closed it. Most: each connection sends its next
beat when the last was answered. CPU is the daemon's own, of a core; a rate to that CPU is what one
core answers, however busy the machine is with others. `--against` measures another checkout in the
same rounds.
"""

import argparse
import json
import os
import select
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from leases import Daemon

#: Seconds between two beats of a worker.
INTERVAL = 0.25


@dataclass
class Figures:
    """One measured stretch."""

    seconds: float
    answered: int
    reconnected: int
    cpu: float
    """Seconds of the daemon's CPU."""

    def __str__(self) -> str:
        return (
            f"{self.answered / self.seconds:7.0f} beats/s, {self.reconnected:6} reconnects,"
            f" {100 * self.cpu / self.seconds:5.1f} % of a core,"
            f" {self.cpu / self.answered * 1e6:5.0f} us a beat,"
            f" {self.answered / self.cpu:7.0f} beats per CPU second"
        )


class Beating:
    """Connections of workers, over which one process beats for all of them."""

    def __init__(self, path: Path, lines: list[bytes]) -> None:
        self._path = str(path)
        self._lines = lines
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, int] = {}
        self._streams = [self._connected(number) for number in range(len(lines))]
        self.waiting = [False] * len(lines)
        """Whether a worker waits for its answer."""
        self.answered = self.reconnected = 0

    def close(self) -> None:
        self._epoll.close()
        for stream in self._streams:
            stream.close()

    def beat(self, number: int) -> None:
        """Send a worker's beat, over another connection if its own was closed."""
        try:
            self._streams[number].sendall(self._lines[number])
        except OSError:
            self._reconnect(number)
            self._streams[number].sendall(self._lines[number])
        self.waiting[number] = True

    def answers(self, timeout: float) -> list[int]:
        """Wait for answers; return whose came."""
        came = []
        for descriptor, _ in self._epoll.poll(timeout):
            number = self._by_descriptor[descriptor]
            answer = b""
            with suppress(OSError):
                answer = self._streams[number].recv(4096)
            if answer:
                assert answer.startswith(b'{"ok":true'), answer
                self.waiting[number] = False
                self.answered += 1
                came.append(number)
            elif self.waiting[number]:
                self.beat_again(number)
            else:
                self._reconnect(number)
        return came

    def beat_again(self, number: int) -> None:
        """Repeat a beat whose connection was closed."""
        self._reconnect(number)
        self.beat(number)

    def _reconnect(self, number: int) -> None:
        self.reconnected += 1
        stream = self._streams[number]
        del self._by_descriptor[stream.fileno()]
        stream.close()
        self._streams[number] = self._connected(number)

    def _connected(self, number: int) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(self._path)
        self._by_descriptor[stream.fileno()] = number
        self._epoll.register(stream, select.EPOLLIN)
        return stream


def steady(beating: Beating, seconds: float) -> None:
    """Let each worker beat at its interval, one after the other."""
    workers = len(beating.waiting)
    begin, sent = time.monotonic(), 0
    while (now := time.monotonic()) < begin + seconds:
        due = int((now - begin) / INTERVAL * workers)
        while sent < due:
            if not beating.waiting[sent % workers]:
                beating.beat(sent % workers)
            sent += 1
        beating.answers(INTERVAL / workers)


def most(beating: Beating, seconds: float) -> None:
    """Let each worker beat as soon as it was answered."""
    for number in range(len(beating.waiting)):
        beating.beat(number)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for number in beating.answers(1):
            beating.beat(number)


Pace = Callable[[Beating, float], None]


def measured(
    workers: int, seconds: float, pace: Pace, folder: str, checkout: Path | None
) -> Figures:
    """Measure one daemon with so many workers."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as place:
        if checkout is not None:
            os.chdir(checkout)
            os.environ["PYTHONPATH"] = str(checkout)
        daemon = Daemon(Path(place), slots=workers)
        daemon.submit(workers, lease_ttl="60s")
        with daemon.running():
            started = "SELECT task_id, lock FROM runs WHERE outcome IS NULL AND pid NOTNULL"
            requests = [
                {"op": "heartbeat", "task_id": task_id, "lock": lock}
                for task_id, lock in daemon.until(started, workers)[:workers]
            ]
            (process,) = [
                one
                for one in psutil.Process().children()
                if one.cmdline()[2:4] == ["dispatcher", "run"]
            ]
            beating = Beating(daemon.socket, [json.dumps(r).encode() + b"\n" for r in requests])
            pace(beating, 2.0)  # all of them connected, and their first lines read
            before, begin = process.cpu_times(), time.monotonic()
            beating.answered = beating.reconnected = 0
            pace(beating, seconds)
            after, end = process.cpu_times(), time.monotonic()
            beating.close()
        os.chdir(here)
        os.environ.pop("PYTHONPATH", None)
    cpu = after.user + after.system - before.user - before.system
    return Figures(end - begin, beating.answered, beating.reconnected, cpu)


def main() -> None:
    """Measure both, in rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    paces = {"steady": (steady, args.workers), "most": (most, args.connections)}
    for name, (pace, workers) in paces.items():
        checkouts = [None] if args.against is None else [args.against, None]
        found: dict[Path | None, list[Figures]] = {one: [] for one in checkouts}
        for number in range(args.rounds):
            for checkout in checkouts:
                figures = measured(workers, args.seconds, pace, args.dir, checkout)
                found[checkout].append(figures)
                print(f"{name} {number + 1}, {checkout or 'this'}: {figures}", flush=True)
        for checkout, all_of_it in found.items():
            median = statistics.median(one.cpu / one.answered * 1e6 for one in all_of_it)
            share = statistics.median(100 * one.cpu / one.seconds for one in all_of_it)
            print(f"{name}, {checkout or 'this'}: {median:.0f} us a beat, {share:.1f} % of a core")


if __name__ == "__main__":
    main()
