"""A command whose output is seen on its way to ours, which stays as it is."""

import fcntl
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import IO

#: Bytes read at once.
CHUNK = 64 * 1024


class StopSignal:
    """SIGTERM, which is passed on to the command of the moment."""

    def __init__(self) -> None:
        self.received = False
        self.child: subprocess.Popen[bytes] | None = None
        self.woken, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        """Readable after a signal, which may come just before a wait that it cannot interrupt."""
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._receive)

    def covers(self, child: subprocess.Popen[bytes]) -> None:
        """Pass the signal on to this command from now on, also if it came already."""
        self.child = child
        if self.received:
            child.send_signal(signal.SIGTERM)

    def wake(self) -> None:
        """Let whoever waits for the command look again, from any thread."""
        with suppress(BlockingIOError):
            os.write(self._wakes, b"\0")

    def _receive(self, signum: int, _: FrameType | None) -> None:
        self.received = True
        if self.child is not None:
            self.child.send_signal(signum)


def start(command: Sequence[str], *, stdin: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start a command whose stdout is to be followed. Raises OSError if it cannot be started."""
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE)


def start_shell(command: str) -> subprocess.Popen[bytes]:
    """Start a shell's command whose stdout and stderr are to be followed."""
    return subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def cannot_start(program: str, error: OSError) -> int:
    """Report a command that cannot be started; return the exit code of a shell for it."""
    sys.stderr.write(f"worker_stub: {program}: {error.strerror}\n")
    return 127 if isinstance(error, FileNotFoundError) else 126


def exit_code(code: int) -> int:
    """Return a shell's exit code for one of Python's."""
    return code if code >= 0 else 128 - code


def follow(
    child: subprocess.Popen[bytes],
    stop: StopSignal,
    *,
    seen: Callable[[bytes], object] = lambda _: None,
    tick: Callable[[], float | None] = lambda: None,
) -> int:
    """Copy its output until it exits, showing each piece to `seen`; return its exit code.

    `tick` is called before each wait, and returns for how many seconds to wait at most.
    """
    stop.covers(child)
    exited = os.pidfd_open(child.pid)
    out = -1 if child.stdout is None else child.stdout.fileno()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(exited, selectors.EVENT_READ)
            selector.register(stop.woken, selectors.EVENT_READ)
            if child.stdout is not None:
                os.set_blocking(out, False)
                selector.register(out, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(tick())}
                if stop.woken in ready:
                    os.read(stop.woken, CHUNK)
                if out in ready and _copy(out, seen) == b"":
                    selector.unregister(out)  # closed; the command may go on
                if exited in ready:
                    break
    finally:
        os.close(exited)
    if child.stdout is not None:
        with child.stdout:
            _copy_rest(out, seen)
    return exit_code(child.wait())


def _copy_rest(out: int, seen: Callable[[bytes], object]) -> None:
    """Copy what the command left in the pipe, and no more: others may write to it for ever."""
    left = fcntl.fcntl(out, fcntl.F_GETPIPE_SZ)
    while left > 0 and (piece := _copy(out, seen)):
        left -= len(piece)


def _copy(out: int, seen: Callable[[bytes], object]) -> bytes | None:
    """Copy what can be read; return it, b"" at the end, None if there is nothing now."""
    try:
        piece = os.read(out, CHUNK)
    except BlockingIOError:
        return None
    _write(piece)
    if piece:
        seen(piece)
    return piece


def _write(piece: bytes) -> None:
    """Write to our output; what a full disk refuses is lost, as the command's own would be."""
    with suppress(OSError):
        while piece:
            piece = piece[os.write(1, piece) :]
