"""Many small tasks: each runs once, and nothing grows or stays behind."""

from typing import NamedTuple

import psutil

from dispatcher.executor.output.files import MOST_EMPTY
from tests.e2e.helpers import listed, shell, stored, submit_all
from tests.e2e.world import Daemon, World
from tests.eventually import eventually

#: Bytes by which daemon and executor may grow: SQLite's page cache fills up to two mebibytes.
GROWTH = (3 * 1024 * 1024, 512 * 1024)


class Held(NamedTuple):
    """The resources that a process holds."""

    descriptors: int
    memory: int
    zombies: int
    children: int


def test_r52_two_thousand_tasks_succeed_once_each_and_nothing_grows(world: World) -> None:
    """Descriptors, memory, processes and files."""
    world.configure(logs={"level": "info"})
    with world.daemon() as daemon:
        processes = [psutil.Process(daemon.pid), daemon.executor()]
        _run_many(world, daemon, 500)
        before = [_held_by(process) for process in processes]
        _run_many(world, daemon, 1_500)
        after = eventually(lambda: _held_by_no_more(processes, before))
    files = {file.name for file in world.state_dir.iterdir()}

    for then, now, growth in zip(before, after, GROWTH, strict=True):
        assert now.memory < then.memory + growth
    tasks = listed(world)
    assert {("succeeded", 0, 1)} == {
        (t["state"], t["attempts_used"], t["fence"]) for t in tasks.values()
    }
    ((runs, different),) = stored(world, "SELECT count(*), count(DISTINCT uid) FROM runs")
    assert (2_000, 2_000, 2_000) == (len(tasks), runs, different)
    # They printed nothing: each left its file to a later one, unless a child still had it open.
    assert len(list((world.state_dir / "output").iterdir())) <= MOST_EMPTY
    assert EXPECTED_FILES == files


#: The files of an idle state directory.
EXPECTED_FILES = {
    "control-socket", "executor.journal", "executor.lock", "executor.log", "lock", "node-id",
    "output", "store-id", "tasks.db", "tasks.db.lock",
}  # fmt: skip


def test_r30_three_hundred_quick_tasks_and_their_orphans_leave_no_zombie(world: World) -> None:
    """Each exit code is that of its own process."""
    world.configure(node={"slots": 16})
    orphan = "(sleep 0.01 &); exit $((DISPATCHER_TASK_ID % 7 + 1))"
    with world.daemon() as daemon:
        ids = submit_all(world, *[{"command": shell(orphan), "max_attempts": 1}] * 300)
        eventually(lambda: _assert_settled(daemon, 300), every=0.2)
        executor = daemon.executor()
        assert [] == executor.children()
        assert [executor] == psutil.Process(daemon.pid).children()
        assert executor.status() != psutil.STATUS_ZOMBIE
        codes = {e["task_id"]: e["exit_code"] for e in daemon.events("run.settled")}

    assert {task_id: task_id % 7 + 1 for task_id in ids} == codes


def _run_many(world: World, daemon: Daemon, number: int) -> None:
    settled = len(daemon.events("run.settled"))
    submit_all(world, *[{"command": ["true"]}] * number)
    eventually(lambda: _assert_settled(daemon, settled + number), every=0.25)


def _assert_settled(daemon: Daemon, number: int) -> None:
    assert number == daemon.output().count('"run.settled"'), f"not {number} yet"


def _held_by_no_more(processes: list[psutil.Process], before: list[Held]) -> list[Held]:
    """Return what processes hold, once what was open for the last run is closed."""
    after = [_held_by(process) for process in processes]
    for then, now in zip(before, after, strict=True):
        assert now.descriptors <= then.descriptors
        assert (0, then.children) == (now.zombies, now.children)
    return after


def _held_by(process: psutil.Process) -> Held:
    children = process.children()
    return Held(
        descriptors=process.num_fds(),
        memory=process.memory_full_info().uss,
        zombies=sum(child.status() == psutil.STATUS_ZOMBIE for child in children),
        children=len(children),
    )
