"""Shared by end-to-end tests, apart from the world: commands for workers, and views of tasks."""

import json
import os
import pty
import secrets
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.world import DISPATCHER, Daemon, World
from tests.eventually import PATIENCE, eventually


def shell(script: str) -> list[str]:
    """Return a command that runs a shell script."""
    return ["sh", "-c", textwrap.dedent(script)]


def python(script: str) -> list[str]:
    """Return a command that runs a Python script, as fast as Python starts."""
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(script)]


def misbehaves(*manners: str | int) -> list[str]:
    """Return a command that misbehaves so: `python -m worker_stub misbehave --help`."""
    return [sys.executable, "-m", "worker_stub", "misbehave", *map(str, manners)]


def on_a_terminal(
    world: World, *arguments: str, answer: str | None = None, **streams: Any
) -> tuple[int, str]:
    """Run the command on a terminal, where an answer may be typed; return exit code and output.

    `streams` are those that lead elsewhere.
    """
    leader, follower = pty.openpty()
    os.write(leader, (answer or "").encode())
    process = subprocess.Popen(
        [DISPATCHER, *arguments],
        env={**world.env, "TERM": "xterm", "COLUMNS": "120"},
        **{
            "stdin": subprocess.DEVNULL if answer is None else follower,
            "stdout": follower,
            "stderr": follower,
            **streams,
        },
    )
    os.close(follower)
    shown = b""
    with suppress(OSError):  # the other side was closed
        while chunk := os.read(leader, 65_536):
            shown += chunk
    os.close(leader)
    return process.wait(PATIENCE), shown.decode()


def submit_all(world: World, *tasks: Mapping[str, object]) -> list[int]:
    """Submit many tasks in one go; return their ids."""
    lines = "\n".join(json.dumps(task) for task in tasks)
    return [int(line) for line in world.cli("submit", "--from", "-", stdin=lines).stdout.split()]


def listed(world: World) -> dict[int, dict[str, Any]]:
    """Return every task as `list` shows it, by id."""
    tasks = world.cli("list", "--json", "--limit", "100000").json
    return {task["id"]: task for task in reversed(tasks)}


def states(world: World) -> list[str]:
    """Return the state of every task, in the order of their ids."""
    return [task["state"] for task in listed(world).values()]


def stored(world: World, query: str) -> list[tuple[Any, ...]]:
    """Return rows of the database: for what no command shows, as the locks."""
    return world.stored(query)


def expect_settled(daemon: Daemon, task_ids: Iterable[int], **fields: object) -> None:
    """Wait until a run of each task was settled, with these fields."""
    wanted = set(task_ids)

    def probe() -> None:
        settled = [e for e in daemon.events("run.settled") if fields.items() <= e.items()]
        missing = wanted - {event["task_id"] for event in settled}
        assert set() == missing, daemon.output()

    eventually(probe)


def expect_file(world: World, name: str, *, lines: int = 0) -> list[str]:
    """Wait until a file is there, with so many lines; return them."""

    def probe() -> list[str]:
        file = world.directory / name
        assert file.exists(), f"no {name}"
        found = file.read_text().splitlines()
        assert lines <= len(found), f"{name} has {found}"
        return found

    return eventually(probe)


def expect_dead(process: psutil.Process) -> None:
    """Wait until a process is gone or a zombie."""

    def probe() -> None:
        assert not is_alive(process), process

    eventually(probe)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs its program: a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ordinary_user() -> int:
    """Return a user without root's privileges and, if we are root, without any process."""
    if os.geteuid() != 0:
        return os.geteuid()
    if shutil.which("setpriv") is None:
        pytest.skip("we are root, and setpriv, to become another user, is missing")
    return 200_000 + secrets.randbelow(100_000)


def as_user(user: int) -> list[str]:
    """Return what a command begins with so that this user runs it, who may read everything.

    Python may lie where others cannot go.
    """
    if user == os.geteuid():
        return []
    readers = "-all,+dac_read_search"
    privileges = [f"--inh-caps={readers}", f"--ambient-caps={readers}"]
    return ["setpriv", f"--reuid={user}", "--clear-groups", *privileges]


@contextmanager
def external_executor(
    world: World, *, prefix: Sequence[str] = (), alone: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `dispatcher executor` while the block lasts; at its end SIGTERM ends it and its runs.

    If it was `alone`, no process may be left then.
    """
    with (world.directory / "external.log").open("ab") as log:
        process = subprocess.Popen(
            [*prefix, DISPATCHER, "executor"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=world.env,
            cwd=world.directory,
        )
    try:
        yield process
        if process.poll() is None:
            process.terminate()
        process.wait(PATIENCE)
    except BaseException:
        process.kill()
        process.wait()
        world.sweep()
        raise
    if alone:
        world.expect_nobody()


@contextmanager
def small_disk(world: World, name: str) -> Iterator[Path]:
    """Mount a disk of its own for a directory of the world; it has three quarters of a mebibyte."""
    directory = world.directory / name
    directory.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", "size=768k,nr_inodes=64", "none", str(directory)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        eventually(lambda: _unmount(directory))


def _unmount(directory: Path) -> None:
    done = subprocess.run(["umount", directory], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr


def fill(disk: Path, short_of: str) -> list[Path]:
    """Take all that is left of the disk's bytes or of its files."""
    filler = disk / "filler"
    if short_of == "bytes":
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)) == 4096:
                    pass
            except OSError:
                return [filler]
    files: list[Path] = []
    while os.statvfs(disk).f_ffree:
        files.append(disk / f"filler-{len(files)}")
        files[-1].touch()
    return files
