"""Out of memory: the executor lives, the outcome names the cause, and no other run pays."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dispatcher.executor.system.oom import counters
from tests.e2e.helpers import expect_file, external_executor, python, shell
from tests.e2e.world import World
from tests.eventually import eventually

#: Bytes for the executor and all its workers.
ROOM = 200 << 20

#: Takes memory until somebody stops it, and writes it, so that it is really taken.
HOG = "held = []\nwhile True: held.append(b'x' * (1 << 20))"

#: The same by processes each of which is smaller than an executor, until an end.
FORKING_HOG = """
    import os, time
    for _ in range(300):
        if os.fork() == 0:
            held = b"x" * (4 << 20)
            time.sleep(1000)
    os.wait()
    time.sleep(1000)
"""

#: Makes a command the member of a cgroup.
_JOINS = 'echo $$ > "$0/cgroup.procs" && exec "$@"'

#: Lets a command have a file in the place of its own score, which nobody may write.
_SCORED = (
    'mount --bind "$0" /proc/$$/oom_score_adj && mount -o remount,bind,ro /proc/$$/oom_score_adj'
    ' && exec "$@"'
)


@pytest.fixture(autouse=True)
def external(privileged: None, world: World) -> None:
    world.configure(executor={"mode": "external"}, retry={"backoff_min": "1h", "backoff_max": "1h"})


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup below ours whose memory is bounded."""
    for counter in counters(Path("/proc/self")):
        group = Path(counter).with_name(f"dispatcher-test-{os.getpid()}")
        bound = "memory.max" if counter.endswith("memory.events") else "memory.limit_in_bytes"
        with suppress(OSError):
            group.mkdir()
        if (group / bound).exists():
            break
        with suppress(OSError):
            group.rmdir()
    else:
        pytest.skip("no cgroup with a memory controller may be made here")
    (group / bound).write_text(str(ROOM))
    for swap in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
        if (group / swap).exists():
            (group / swap).write_text(str(ROOM) if "memsw" in swap else "0")
    yield group
    eventually(lambda: _remove(group))


def _remove(group: Path) -> None:
    assert "" == (group / "cgroup.procs").read_text()
    group.rmdir()


def joins(group: Path) -> tuple[str, ...]:
    return ("sh", "-c", _JOINS, str(group))


def may_protect() -> bool:
    """Return whether we may lower a score: it takes CAP_SYS_RESOURCE."""
    tried = subprocess.run(["choom", "-n", "-500", "--", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def test_r37_a_run_that_the_kernel_killed_for_memory_is_reported_as_that(
    world: World, cgroup: Path
) -> None:
    hog = world.submit(*python(HOG))
    behind_a_shell = world.submit(*shell(f'{sys.executable} -c "{HOG}"; exit $?'))
    innocent = world.submit(*shell("until [ -e go ]; do sleep 0.1; done"))
    with external_executor(world, prefix=joins(cgroup)) as executor, world.daemon(alone=False):
        first = world.until(hog, "scheduled")["runs"][0]
        second = world.until(behind_a_shell, "scheduled")["runs"][0]
        assert executor.poll() is None
        (world.directory / "go").touch()
        assert 1 == len(world.until(innocent, "succeeded")["runs"])

        assert ("oom_killed", 9) == (first["outcome"], first["signal"])
        assert "killed for lack of memory" in first["error"]
        assert ("oom_killed", 137) == (second["outcome"], second["exit_code"])
        explained = world.cli("why", hog).stdout
        assert "oom_killed" in explained
        assert "killed for lack of memory" in explained
    assert 2 == len(logged(world, "run.oom_killed"))


def test_a_forking_hog_costs_no_executor_and_no_other_task(world: World, cgroup: Path) -> None:
    if not may_protect():
        pytest.skip("nobody here may protect a process: it takes CAP_SYS_RESOURCE")
    world.configure(executor={"mode": "external"})
    innocents = [world.submit(*shell("until [ -e go ]; do sleep 0.1; done")) for _ in range(2)]
    hog = world.submit(*python(FORKING_HOG))
    prefix = (*joins(cgroup), "choom", "-n", "-500", "--")
    with external_executor(world, prefix=prefix) as executor, world.daemon(alone=False) as daemon:
        eventually(lambda: expect_kills(cgroup, 20))
        assert executor.poll() is None
        world.cli("cancel", hog)
        world.until(hog, "cancelled")
        (world.directory / "go").touch()

        for innocent in innocents:
            assert "held" != world.until(innocent, "succeeded", "scheduled")["state"]
        assert 1 == len(daemon.events("executor.connected"))


def test_workers_are_born_without_the_executors_protection(world: World) -> None:
    if not may_protect():
        pytest.skip("nobody here may protect a process: it takes CAP_SYS_RESOURCE")
    task = world.submit(*shell("cat /proc/self/oom_score_adj > score"))
    with (
        external_executor(world, prefix=("choom", "-n", "-500", "--")) as executor,
        world.daemon(alone=False),
    ):
        world.until(task, "succeeded")

        assert ["0"] == expect_file(world, "score", lines=1)
        assert -500 == int(Path(f"/proc/{executor.pid}/oom_score_adj").read_text())


def test_a_protection_that_cannot_be_given_up_is_inherited_and_logged(world: World) -> None:
    score = world.directory / "score"
    score.write_text("-500\n")
    task = world.submit("true")
    prefix = ("unshare", "--mount", "sh", "-c", _SCORED, str(score))
    with external_executor(world, prefix=prefix), world.daemon(alone=False):
        world.until(task, "succeeded")

    (line,) = logged(world, "protection.inherited")
    assert line["reason"].endswith(": Read-only file system")


def logged(world: World, name: str) -> list[dict[str, Any]]:
    """Return what the executor has logged under this name."""
    lines = (world.directory / "external.log").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def expect_kills(group: Path, number: int) -> None:
    files = (group / name for name in ("memory.events", "memory.oom_control"))
    words = next(file for file in files if file.exists()).read_text().split()
    assert number <= int(words[words.index("oom_kill") + 1])
