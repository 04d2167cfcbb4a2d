"""Readers that stop (of a log, a terminal, stderr): the loops go on and signals work."""

import os
import pty
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually


@contextmanager
def daemon_on(world: World, descriptor: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon with stdout and stderr on a descriptor that the test does not read."""
    process = world.process_of(
        [DISPATCHER, "run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=descriptor,
        stderr=descriptor,
        env={**world.env, "TERM": "xterm"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        world.expect_nobody()


def lines_of(taken: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in taken.splitlines()]


def test_r73_a_log_reader_that_stops_holds_up_no_task_and_no_signal(world: World) -> None:
    read, write = os.pipe()
    with daemon_on(world, write) as daemon:
        os.close(write)
        ids = world.cli(
            "submit", "--from", "-", stdin='{"command": ["true"]}\n' * 600
        ).stdout.split()
        eventually(lambda: _assert_succeeded(world, len(ids)))

        daemon.send_signal(signal.SIGTERM)
        assert 0 == daemon.wait(PATIENCE)
    os.close(read)


def test_a_reader_that_is_back_gets_every_line_that_was_queued(world: World) -> None:
    read, write = os.pipe()
    with daemon_on(world, write) as daemon:
        os.close(write)
        world.cli("submit", "--from", "-", stdin='{"command": ["true"]}\n' * 100)
        eventually(lambda: _assert_succeeded(world, 100))
        taken = _until(read, b'"run.settled"', 100)

        daemon.send_signal(signal.SIGTERM)
        taken += _until(read, b'"daemon.stopped"', 1)
        assert 0 == daemon.wait(PATIENCE)
    os.close(read)
    numbers = [line["sequence"] for line in lines_of(taken)]
    assert list(range(1, len(numbers) + 1)) == numbers


def test_r73_ctrl_s_holds_up_no_task_and_no_signal(world: World) -> None:
    world.configure(logs={"format": "console"})
    leader, follower = pty.openpty()
    with daemon_on(world, follower) as daemon:
        eventually(lambda: world.cli("status"))
        termios.tcflow(follower, termios.TCOOFF)
        task_id = world.submit("true")
        world.until(task_id, "succeeded")

        daemon.send_signal(signal.SIGINT)
        assert 0 == daemon.wait(PATIENCE)
    os.close(leader)
    os.close(follower)


def test_ctrl_s_holds_up_no_drain_that_shows_a_bar(world: World) -> None:
    leader, follower = pty.openpty()
    termios.tcflow(follower, termios.TCOOFF)
    world.submit("sleep", "1")
    with daemon_on(world, follower, "--drain") as daemon:
        assert 0 == daemon.wait(PATIENCE)
    os.close(leader)
    os.close(follower)


def test_an_executor_whose_stderr_nobody_reads_goes_on_and_leaves(world: World) -> None:
    world.configure(executor={"mode": "external"})
    read, write = os.pipe()
    _fill(write)
    executor = world.process_of(
        [DISPATCHER, "executor"], stdin=subprocess.DEVNULL, stderr=write, env=world.env
    )
    with world.daemon(alone=False):
        world.until(world.submit("true"), "succeeded")
    executor.send_signal(signal.SIGTERM)
    assert 0 == executor.wait(PATIENCE)
    os.close(read)
    os.close(write)
    world.expect_nobody()


def test_a_daemon_that_cannot_start_leaves_though_nobody_reads_why(world: World) -> None:
    world.config_file.write_text("[node]\nslots = 0\n")
    read, write = os.pipe()
    _fill(write)
    with daemon_on(world, write) as daemon:
        assert 78 == daemon.wait(PATIENCE)
    os.close(read)
    os.close(write)


def _assert_succeeded(world: World, number: int) -> None:
    assert number == world.cli("status", "--json").json["states"]["succeeded"]


def _fill(descriptor: int) -> None:
    """Leave no room in a pipe."""
    os.set_blocking(descriptor, False)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(descriptor, True)


def _until(descriptor: int, mark: bytes, times: int) -> bytes:
    """Read until a mark has come so many times, and its line is whole."""
    taken = b""
    while taken.count(mark) < times or not taken.endswith(b"\n"):
        chunk = os.read(descriptor, 1 << 16)
        assert chunk, taken[-2000:]
        taken += chunk
    return taken
