"""A worker that misbehaves as its options require: for tests, the demo, and to watch its end.

    python -m worker_stub misbehave --silent-after 2s            # a wedged worker
    python -m worker_stub misbehave --hang --ignore-term --escape --clear-env --stamp trail
    python -m worker_stub misbehave --exit 75 --times 2          # defers twice, then succeeds
    python -m worker_stub run -- python -m worker_stub misbehave --hang --ignore-term   # with beats

It does so in the order of the options below; then it exits.
"""

import argparse
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from worker_stub import names
from worker_stub.daemon_socket import Unreachable
from worker_stub.worker import Worker

#: Seconds between two stamps of a process that hangs.
STAMP_EVERY = 0.05

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_CHUNK = b"All work and no play makes Jack a dull boy.\n" * 1024


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the misbehaviours, in the order in which they happen."""
    add = parser.add_argument
    add("--times", type=int, metavar="N", help="in the first N runs only; later ones just succeed")
    add("--clear-env", action="store_true", help="run, and fork, with an empty environment")
    add("--stamp", metavar="FILE", help="append `role pid fence time` at birth and while it hangs")
    add("--ignore-term", action="store_true", help="ignore SIGTERM, SIGINT and SIGHUP")
    add("--fork", type=int, nargs="?", const=1, default=0, metavar="N", help="N children, hanging")
    add("--escape", action="store_true", help="a grandchild: forked twice, another session")
    add("--keep-lineage", action="store_true", help="the escaped one's parent stays as well")
    add("--flood", type=_size, default=0, metavar="SIZE", help="write this much output, e.g. 100M")
    add("--flood-beats", type=int, metavar="N", help="send N beats and read no answer")
    add("--close-output", action="store_true", help="close stdin, stdout and stderr, in each")
    add("--silent-after", type=_duration, metavar="TIME", help="beat for this long, then hang")
    add("--stop-self", action="store_true", help="SIGSTOP; continued, beat once: 79 if refused")
    add("--hang", action="store_true", help="never exit")
    add("--exit", type=int, default=0, metavar="CODE", help="exit; its children stay behind")
    add(
        "--cleared", dest="fence", help=argparse.SUPPRESS
    )  # set after --clear-env: the fence of the run


def misbehave(options: argparse.Namespace) -> int:
    """Misbehave; return the exit code. Raises `Refused` for a refused heartbeat."""
    cleared = options.fence is not None
    options.fence = options.fence or os.environ.get(names.FENCE, "1")
    stamp = _stamper(options)
    if options.times is not None and int(options.fence) > options.times:
        stamp("leader")
        return 0
    if options.clear_env and not cleared:
        # /proc shows the environment of the exec; forked processes inherit the empty one.
        os.execve(sys.executable, [*sys.orig_argv, "--cleared", options.fence], {})  # noqa: S606
    if options.ignore_term:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
    stamp("leader")
    _multiply(options, stamp)
    _flood(options)
    return _end(options, stamp)


def _multiply(options: argparse.Namespace, stamp: Callable[[str], None]) -> None:
    for _ in range(options.fork):
        _fork(lambda: _live_on("child", stamp, options))
    if options.escape:
        _escape(stamp, options)


def _flood(options: argparse.Namespace) -> None:
    size = options.flood
    while size > 0:
        size -= os.write(sys.stdout.fileno(), _CHUNK[:size])
    if options.flood_beats:
        request = {
            "op": "heartbeat",
            "task_id": int(os.environ[names.TASK_ID]),
            "lock": os.environ[names.CLAIM_LOCK],
        }
        with socket.socket(socket.AF_UNIX) as connection, suppress(ConnectionError):
            connection.connect(os.environ[names.SOCKET])
            connection.sendall((json.dumps(request).encode() + b"\n") * options.flood_beats)


def _end(options: argparse.Namespace, stamp: Callable[[str], None]) -> int:
    if options.close_output:
        _close_output()
    if options.silent_after is not None:
        _beat_for(options.silent_after)
    if options.stop_self:
        os.kill(os.getpid(), signal.SIGSTOP)
        if names.CLAIM_LOCK in os.environ:
            _beat(Worker(beats="calls"))
    if options.hang or options.silent_after is not None:
        _hang("leader", stamp)
    return int(options.exit)


def _fork(work: Callable[[], object]) -> int:
    """Run a function in a child, which never returns from it; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def _escape(stamp: Callable[[str], None], options: argparse.Namespace) -> None:
    """Fork a grandchild in a session of its own; return once it lives."""
    read, write = os.pipe()

    def grandchild() -> None:
        stamp("grandchild")
        os.write(write, b"!")
        _live_on("grandchild", stamp, options)

    def middle() -> None:
        os.setsid()
        _fork(grandchild)
        if options.keep_lineage:
            _live_on("parent", stamp, options)
        os._exit(0)

    pid = _fork(middle)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    if not options.keep_lineage:
        os.waitpid(pid, 0)


def _live_on(role: str, stamp: Callable[[str], None], options: argparse.Namespace) -> None:
    if options.close_output:
        _close_output()
    _hang(role, stamp)


def _close_output() -> None:
    with suppress(ValueError, OSError):
        sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _stamper(options: argparse.Namespace) -> Callable[[str], None]:
    """Return a function that records in a file which process lives."""

    def stamp(role: str) -> None:
        if options.stamp is not None:
            line = f"{role} {os.getpid()} {options.fence} {time.time():.6f}\n"
            file = os.open(options.stamp, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(file, line.encode())
            os.close(file)

    return stamp


def _hang(role: str, stamp: Callable[[str], None]) -> None:
    while True:
        stamp(role)
        time.sleep(STAMP_EVERY)


def _beat_for(seconds: float) -> None:
    worker = Worker(beats="calls")
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        _beat(worker)
        time.sleep(min(worker.lease_ttl / 3, max(0.0, over - time.monotonic())))


def _beat(worker: Worker) -> None:
    """Send a heartbeat until the daemon answers: its silence is not a refusal."""
    while True:
        try:
            worker.heartbeat()
        except Unreachable:
            time.sleep(STAMP_EVERY)
        else:
            return


def _duration(text: str) -> float:
    """Return seconds: "2s", "500ms", "1.5m"."""
    found = re.fullmatch(r"([0-9.]+)(ms|s|m|h)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write e.g. 2s or 500ms")
    return float(found[1]) * _SECONDS[found[2]]


def _size(text: str) -> int:
    """Return bytes: "5000", "64K", "100M", "1G"."""
    found = re.fullmatch(r"([0-9]+)([KMG]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write e.g. 64K or 100M")
    return int(found[1]) * _BYTES[found[2]]
