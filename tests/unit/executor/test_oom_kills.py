"""Runs that count as killed for lack of memory: the kernel counts its kills without naming one."""

import signal
from pathlib import Path

import pytest

from dispatcher import wire
from dispatcher.executor.ending.oom_kills import KILL_AGE, OomKills
from dispatcher.executor.log import Log
from dispatcher.executor.phases import Phase
from dispatcher.executor.run import TrackedRun
from dispatcher.executor.system.kernel import ProcessStatus
from dispatcher.times import Instant
from tests.unit.executor.world import FakeKernel, FakeProcess, World

KILLED = ProcessStatus(signal=signal.SIGKILL)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.kernel.killed_for_memory = 40  # of what was there before
    return world


def killed(world: World, *leaders: FakeProcess, status: ProcessStatus = KILLED) -> None:
    for leader in leaders:
        world.kernel.dies(leader, status)
    world.run_for(0)


def exits(world: World) -> dict[str, tuple[bool, bool]]:
    """Return of each run that is gone whether memory ended it, and whether that is doubtful."""
    exited = world.sent(wire.Exited)
    return {exited.uid: (exited.exit.oom, exited.exit.oom_doubtful) for exited in exited}


def kernel_kills(world: World, number: int = 1) -> None:
    assert world.kernel.killed_for_memory is not None
    world.kernel.killed_for_memory += number


def test_r37_a_leader_that_the_kernel_killed_for_memory_is_reported_as_that(world: World) -> None:
    leader, other = world.start("hog"), world.start("innocent")
    kernel_kills(world)
    killed(world, leader)
    killed(world, other)

    assert {"hog": (True, False), "innocent": (False, False)} == exits(world)
    (logged,) = [event for event in world.events if event["event"] == "run.oom_killed"]
    assert ("hog", leader.pid, False) == (logged["uid"], logged["pid"], logged["doubtful"])
    assert [signal.SIGKILL] * 2 == [exited.exit.signal for exited in world.sent(wire.Exited)]


def test_a_shell_that_exits_137_for_its_killed_command_counts_too(world: World) -> None:
    leader = world.start("shell")
    kernel_kills(world)
    killed(world, leader, status=ProcessStatus(exit_code=137))

    assert {"shell": (True, False)} == exits(world)


@pytest.mark.parametrize(
    "status", [ProcessStatus(exit_code=1), ProcessStatus(exit_code=0), ProcessStatus(signal=11)]
)
def test_a_leader_that_ends_in_another_way_was_not_killed_for_memory(
    world: World, status: ProcessStatus
) -> None:
    leader = world.start("run")
    kernel_kills(world)
    killed(world, leader, status=status)

    assert {"run": (False, False)} == exits(world)


def test_a_sigkill_that_the_kernel_did_not_count_is_somebodys(world: World) -> None:
    killed(world, world.start("run"))

    assert {"run": (False, False)} == exits(world)


def test_a_kernel_without_a_counter_reports_no_kills(world: World) -> None:
    world.kernel.killed_for_memory = None
    killed(world, world.start("run"))

    assert {"run": (False, False)} == exits(world)


def test_more_runs_than_kills_at_one_moment_are_all_doubtful(world: World) -> None:
    leaders = [world.start(uid) for uid in ("a", "b")]
    kernel_kills(world)
    killed(world, *leaders)

    assert {"a": (True, True), "b": (True, True)} == exits(world)


def test_as_many_kills_as_runs_leave_no_doubt(world: World) -> None:
    leaders = [world.start(uid) for uid in ("a", "b")]
    kernel_kills(world, 3)
    killed(world, *leaders)

    assert {"a": (True, False), "b": (True, False)} == exits(world)


def test_our_own_sigkill_is_not_the_kernels(world: World) -> None:
    world.start("run", kill_grace=0.0)
    world.kernel.processes[101].ignores = frozenset({signal.SIGTERM})
    kernel_kills(world)
    world.end("run")
    world.run_for(1)

    assert {"run": (False, False)} == exits(world)


def test_a_kill_is_a_runs_end_for_a_while_and_no_longer(world: World) -> None:
    """Another process of the run was killed, and its leader went on."""
    soon, late = world.start("soon"), world.start("late")
    kernel_kills(world, 2)
    world.run_for(KILL_AGE - 2)
    killed(world, soon)
    world.run_for(4)
    killed(world, late)

    assert {"soon": (True, True), "late": (False, False)} == exits(world), "it is not a sure sign"


def test_a_kill_while_nothing_ran_is_charged_to_no_run(world: World) -> None:
    killed(world, world.start("before"), status=ProcessStatus(exit_code=0))
    world.run_for(1)
    kernel_kills(world)
    killed(world, world.start("after"))

    assert {"before": (False, False), "after": (False, False)} == exits(world)


def test_a_kill_that_spared_the_leader_of_a_run_is_not_surely_anothers_end(world: World) -> None:
    """The shell went on and succeeded; an operator's `kill -9` ended the other run."""
    shell, other = world.start("shell"), world.start("other")
    kernel_kills(world)
    killed(world, shell, status=ProcessStatus(exit_code=0))
    world.run_for(0.5)
    killed(world, other)

    assert {"shell": (False, False), "other": (True, True)} == exits(world)


def test_a_kill_that_was_counted_a_while_ago_is_surely_of_the_only_run(world: World) -> None:
    """A large process dies late."""
    leader = world.start("large")
    kernel_kills(world)
    world.run_for(1.5)
    killed(world, leader)

    assert {"large": (True, False)} == exits(world)


def test_a_kill_that_was_counted_before_a_run_started_was_not_of_it(world: World) -> None:
    world.start("before")
    kernel_kills(world)
    killed(world, world.start("after"))

    assert {"after": (False, False)} == exits(world)


def test_a_kill_before_the_executor_began_is_charged_to_no_run() -> None:
    """A run of its predecessor that survives SIGKILL may live then."""
    kernel, log = FakeKernel(), Log(2)
    kernel.killed_for_memory = 40
    uid, died = wire.RunUid("run"), wire.Exit(at=0.0, signal=signal.SIGKILL)
    run = TrackedRun(uid=uid, output_path="/run.log", phase=Phase.LINGERING, exit=died)

    OomKills(kernel.oom_kills, {uid: run}, log).judge([run], Instant(1.0))

    assert run.exit == died


def test_a_successor_reads_it_in_the_journal(world: World) -> None:
    leader = world.start("run")
    world.kernel.born(leader.pid)
    kernel_kills(world)
    killed(world, leader)

    (line,) = [line for line in world.path.read_text().splitlines() if "leader_exited" in line]
    assert '"oom":true' in line


def test_the_starts_of_a_tick_share_one_look_at_the_counter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process of any of them exists before the tick has read all its messages."""
    looks: list[Instant] = []
    monkeypatch.setattr(OomKills, "look", lambda _, at: looks.append(at))
    world.server.inbox += [
        wire.Start(
            uid=wire.RunUid(uid), epoch=1, command=("it",), env={}, output_path=f"/{uid}.log"
        )
        for uid in ("a", "b")
    ]
    world.start("c")

    assert 3 == len(world.executor.table.live)
    assert 1 == len(looks)
