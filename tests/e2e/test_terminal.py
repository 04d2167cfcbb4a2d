"""What a person sees on a terminal of 80 columns."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.e2e.helpers import shell
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually

COLUMNS, LINES = 80, 24


class Terminal:
    """A command with its stdout on a terminal."""

    def __init__(self, leader: int, process: subprocess.Popen[bytes]) -> None:
        self._leader = leader
        self.process = process
        self._shown = b""

    def shown(self) -> str:
        """Return everything that was written so far, without colours."""
        with suppress(OSError):  # nothing new, or the other side was closed
            self._shown += os.read(self._leader, 65_536)
        return re.sub(r"\x1b\[[0-9;]*m", "", self._shown.decode(errors="replace"))

    def expect(self, text: str) -> str:
        """Wait until a text was written; return everything."""

        def probe() -> str:
            shown = self.shown()
            assert text in shown, shown
            return shown

        return eventually(probe)

    def end(self, signum: signal.Signals) -> int:
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE)


@contextmanager
def on_a_terminal(world: World, *arguments: str) -> Iterator[Terminal]:
    leader, follower = pty.openpty()
    os.set_blocking(leader, False)
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = world.process_of(
        [DISPATCHER, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env={**world.env, "TERM": "xterm"},
        cwd=world.directory,
    )
    os.close(follower)
    try:
        yield Terminal(leader, process)
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_a_watched_list_follows_what_happens_until_ctrl_c(world: World) -> None:
    with on_a_terminal(world, "list", "--watch") as terminal:
        terminal.expect("no tasks")
        world.submit("make", "all")
        shown = terminal.expect("daemon not running; 1st in line")
        code = terminal.end(signal.SIGINT)

    assert 0 == code
    frame = shown.split("\x1b[H")[-1].split("\x1b[J")[0].replace("\x1b[K", "").splitlines()
    assert all(len(line) <= COLUMNS for line in frame)
    assert len(frame) < LINES
    assert "1 task: 1 ready" == frame[-1]


def test_each_event_of_the_foreground_log_takes_one_line(world: World) -> None:
    world.configure(logs={"format": "auto", "level": "info"})
    world.submit(*shell("echo " + "x" * 200 + "; exit 3"), max_attempts=1, queue="nightly")
    with on_a_terminal(world, "run") as terminal:
        terminal.expect("run.settled")
        assert 0 == terminal.end(signal.SIGTERM)
        lines = terminal.expect("daemon.stopped").splitlines()

    for line in lines:
        assert re.match(r"\d\d:\d\d:\d\d (warning |error )?[a-z]+\.[a-z_]+( |$)", line), lines
        assert len(line) <= COLUMNS or " warning " in line, lines
    (settled,) = [line for line in lines if "run.settled" in line]
    assert " run.settled task_id=1 outcome=failed exit_code=3 reason='exit code 3" in settled
