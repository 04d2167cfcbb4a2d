"""A journal that is damaged, cannot be read, or could not be written for a while."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.e2e.helpers import (
    expect_dead,
    expect_file,
    expect_settled,
    external_executor,
    fill,
    shell,
    small_disk,
    submit_all,
)
from tests.e2e.world import World
from tests.eventually import PATIENCE, eventually

SLEEPS_ONCE = shell("[ -e pid ] && exit; echo $$ > pid; exec sleep 1000")


def killed_with_its_executor(world: World) -> tuple[int, psutil.Process]:
    """Have a task begun, and kill who looks after it; return its id and what survives of it."""
    with world.daemon(alone=False) as daemon:
        executor = daemon.executor()
        task_id = world.submit(*SLEEPS_ONCE)
        daemon.expect("run.started", task_id=task_id)
        survivor = psutil.Process(int(expect_file(world, "pid", lines=1)[0]))
        daemon.kill()
        executor.kill()
        expect_dead(executor)
    return task_id, survivor


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b'"event":"started","uid":"', b'"event":"started","uid":"\xff'),
        lambda text: text.replace(b'"event":"started"', b'"event":' + b"[" * 100_000),
        lambda text: text.replace(b'"boot_id":"', b'"boot_id":"\xff'),
    ],
    ids=["the pid's line", "nested deep", "the header"],
)
def test_a_damaged_journal_is_named_in_the_log_and_what_survived_is_still_ended(
    world: World, damage: Callable[[bytes], bytes]
) -> None:
    task_id, survivor = killed_with_its_executor(world)
    journal = world.state_dir / "executor.journal"
    journal.write_bytes(damage(journal.read_bytes()))

    with world.daemon() as daemon:
        expect_settled(daemon, [task_id], outcome="orphaned")
        expect_dead(survivor)
        expect_settled(daemon, [task_id], outcome="succeeded")

    log = (world.state_dir / "executor.log").read_text()
    assert f'"event":"journal.damaged","sequence":2,"path":"{journal}","lines":1,"first":' in log


# What cannot be read at all -----------------------------------------------------------------------


@contextmanager
def unreadable(journal: Path, make: Callable[[Path], None]) -> Iterator[None]:
    """Put something in the place of a journal that no executor can read."""
    journal.unlink()
    make(journal)
    try:
        yield
    finally:
        journal.rmdir() if journal.is_dir() else journal.unlink()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_an_unreadable_journal_is_named_by_every_command_until_it_is_repaired(
    world: World, make: Callable[[Path], None]
) -> None:
    journal = world.state_dir / "executor.journal"
    wrong = f"the journal {journal} is not a regular file"

    with world.daemon() as daemon:
        executor = daemon.executor()
        with unreadable(journal, make):
            executor.kill()
            task_id = world.submit("true")
            refused = daemon.expect("executor.exited", exit_code=78)
            assert wrong in refused["reason"]
            expect_named(world, task_id, wrong)
        world.until(task_id, "succeeded")
        assert "ok" == world.cli("status", "--json").json["health"]


def expect_named(world: World, task_id: int, wrong: str) -> None:
    status = world.cli("status", "--json").json
    assert ("degraded", "waiting") == (status["health"], status["executor"])
    assert wrong in status["node"]["executor_error"]
    assert wrong in world.cli("status").stdout
    assert wrong in world.cli("why", task_id).stdout
    doctor = {one["check"]: one for one in world.cli("doctor", "--json", exits=1).json}
    for check, text in (("journal", wrong), ("executor", f"none stays: {wrong}")):
        assert ("bad", text) == (doctor[check]["level"], doctor[check]["finding"])
        assert "let the executor's user read it" in doctor[check]["remedy"]


def test_a_journal_that_its_user_may_not_read_is_refused_by_its_name(world: World) -> None:
    prefix = []
    if os.geteuid() == 0:  # whom no mode keeps out, unless it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("we are root, and setpriv, to give up root's right to read all, is missing")
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    world.configure(executor={"mode": "external"})
    journal = world.state_dir / "executor.journal"
    with external_executor(world):
        eventually(lambda: _expect(journal.exists()))
    journal.chmod(0)

    with external_executor(world, prefix=prefix) as executor:
        assert 78 == executor.wait(PATIENCE)

    log = (world.directory / "external.log").read_text()
    assert f"the journal {journal} cannot be read: Permission denied; let the" in log


def _expect(fact: bool) -> None:
    assert fact


# What could not be written ------------------------------------------------------------------------


def test_an_exit_seen_on_a_full_disk_is_known_to_the_next_executor(world: World) -> None:
    """Protocol 2.3: no daemon is there to log it, and nothing starts meanwhile."""
    slots = 30  # what is left of the journal's last block holds the ends of a few
    elsewhere = f"sqlite://{world.directory}/elsewhere/tasks.db"
    world.configure(node={"slots": slots}, store={"url": elsewhere})
    with small_disk(world, str(world.runtime_dir)) as disk:  # where the journal is then
        try:
            executor, tasks = _with_no_daemon(world, slots)
            _exit_while_it_is_full(world, disk, executor)
            executor.kill()
            expect_dead(executor)
            with world.daemon() as daemon:
                expect_settled(daemon, tasks, outcome="failed", exit_code=3, attempt=1)
        finally:
            world.sweep()


def _with_no_daemon(world: World, many: int) -> tuple[psutil.Process, list[int]]:
    """Have tasks begun that exit when they may, and kill the daemon."""
    with world.daemon(alone=False) as daemon:
        executor = daemon.executor()
        script = shell("while [ ! -e go ]; do sleep 0.1; done; exit 3")
        tasks = submit_all(world, *[{"command": script, "max_attempts": 1}] * many)
        for task_id in tasks:
            daemon.expect("run.started", task_id=task_id)
        daemon.kill()
    return executor, tasks


def _exit_while_it_is_full(world: World, disk: Path, executor: psutil.Process) -> None:
    """Let them exit on a full disk, then make room; return when the journal has every end."""
    journal = world.state_dir / "executor.journal"
    workers = len(executor.children())
    filler = fill(disk, "bytes")
    (world.directory / "go").touch()
    eventually(lambda: _expect([] == executor.children()))
    assert journal.read_text().count('"event":"gone"') < workers
    for file in filler:
        file.unlink()
    eventually(lambda: _expect(workers == journal.read_text().count('"event":"gone"')))
