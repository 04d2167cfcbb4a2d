"""When an executor leaves, and when it stays, in virtual time."""

from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from dispatcher import wire
from dispatcher.executor.executor import STOP_PATIENCE
from dispatcher.executor.journal import Journal
from dispatcher.executor.kills import UNKILLABLE_AFTER
from dispatcher.executor.records import Gone, Header
from dispatcher.logs.journald import SOCKET_VARIABLE
from dispatcher.times import Instant
from tests.unit.executor.world import World


@pytest.fixture
def embedded(tmp_path: Path) -> World:
    return World(tmp_path, embedded=True)


@pytest.fixture
def external(tmp_path: Path) -> World:
    return World(tmp_path)


def test_embedded_it_leaves_ten_seconds_after_daemon_and_runs(embedded: World) -> None:
    embedded.connect(connected=False)

    assert embedded.run_for(9.9)
    assert not embedded.run_for(0.2)


def test_embedded_it_leaves_when_nobody_ever_came(tmp_path: Path) -> None:
    world = World(tmp_path, embedded=True, greeted=False)

    assert 10.0 == world.executor.patience(None)
    assert not world.run_for(10.1)


def test_a_daemon_that_comes_back_keeps_it(embedded: World) -> None:
    embedded.connect(connected=False)
    assert embedded.run_for(9)
    embedded.connect(connected=True)
    assert embedded.run_for(9)
    embedded.connect(connected=False)

    assert embedded.run_for(9.9)
    assert not embedded.run_for(0.2)


def test_a_run_that_nobody_forgot_keeps_it(embedded: World) -> None:
    embedded.kernel.dies(embedded.start())
    embedded.connect(connected=False)
    assert embedded.run_for(1000)
    embedded.deliver(wire.Forget(uid=wire.RunUid("run")))

    assert embedded.run_for(9)
    assert not embedded.run_for(1.1)


def test_after_a_leave_the_last_forget_lets_the_executor_exit_at_once(embedded: World) -> None:
    embedded.kernel.dies(embedded.start())
    embedded.deliver(wire.Leave())
    assert embedded.run_for(5)

    embedded.deliver(wire.Forget(uid=wire.RunUid("run")))

    assert not embedded.stays


def test_a_new_daemon_revokes_a_leave(embedded: World) -> None:
    leader = embedded.start()
    embedded.deliver(wire.Leave())
    embedded.connect(connected=True)
    embedded.kernel.dies(leader)
    embedded.run_for(0)

    embedded.deliver(wire.Forget(uid=wire.RunUid("run")))

    assert embedded.run_for(100)


def test_external_it_stays(external: World) -> None:
    external.deliver(wire.Leave())
    external.connect(connected=False)

    assert external.run_for(1000)


def test_r34_a_shutdown_ends_all_runs_with_their_graces_and_the_executor_exits(
    external: World,
) -> None:
    """A run ended by our stop is reported as that."""
    polite = external.start("polite")
    external.spawner.facts = {"ignores": frozenset({SIGTERM})}
    external.start("stubborn", kill_grace=3.0)

    external.shut_down()
    assert external.run_for(2.9)
    assert not external.run_for(0.2)

    assert SIGTERM == polite.signals[0][1]
    assert {"polite", "stubborn"} == {m.uid for m in external.sent(wire.Changed)}
    assert {"shutdown"} == {m.ended_by for m in external.sent(wire.Exited)}
    assert {"shutdown"} == {run.ended_by for run in external.journal.predecessors_runs()}
    assert [2] == [e["runs"] for e in external.events if e["event"] == "executor.stopping"]


def test_a_shutdown_leaves_behind_the_survivors_of_sigkill_and_names_them(
    external: World,
) -> None:
    external.spawner.facts = {"ignores": frozenset({SIGTERM, SIGKILL})}
    leader = external.start("stuck", kill_grace=3.0)

    external.shut_down()
    assert external.run_for(3 + UNKILLABLE_AFTER + STOP_PATIENCE - 0.1)
    assert "run.left_behind" not in external.names()
    assert not external.run_for(0.2)

    left = [event for event in external.events if event["event"] == "run.left_behind"]
    assert [("stuck", leader.pid)] == [(event["uid"], event["pid"]) for event in left]
    assert not external.executor.run()  # which is exit code 1
    assert ["stuck"] == [run.uid for run in external.journal.predecessors_runs()]


def test_a_shutdown_waits_for_runs_that_may_still_end(external: World) -> None:
    """As long as a run is ending, however long its grace is, and once more for each."""
    external.spawner.facts = {"ignores": frozenset({SIGTERM, SIGKILL})}
    stuck = external.start("stuck", kill_grace=0.0)
    external.spawner.facts = {"ignores": frozenset({SIGTERM})}
    external.start("patient", kill_grace=100.0)

    external.shut_down()
    assert external.run_for(99)
    assert external.run_for(10)  # the patient one is gone, and the other has its time
    external.kernel.dies(stuck)

    assert not external.run_for(11)
    assert "run.left_behind" not in external.names()


def test_an_unkillable_run_alone_makes_nobody_leave(external: World) -> None:
    external.spawner.facts = {"ignores": frozenset({SIGTERM, SIGKILL})}
    external.start("stuck", kill_grace=0.0)
    external.end("stuck", at_once=True)

    assert external.run_for(100)


def test_shutting_down_it_starts_nothing(external: World) -> None:
    external.spawner.facts = {"ignores": frozenset({SIGTERM})}
    external.start()
    external.shut_down()
    late = wire.Start(uid=wire.RunUid("late"), epoch=1, command=("x",), env={}, output_path="/x")

    external.deliver(late)

    assert wire.Fault.HOST == external.last(wire.StartFailed).fault


def test_while_runs_live_no_wait_exceeds_a_second(external: World) -> None:
    """epoll sleeps on a clock that stands still in suspend."""
    assert external.executor.patience(None) is None
    external.start()
    external.run_for(0.5)

    assert 1.0 - 0.5 == external.executor.patience(None)


def test_embedded_it_does_not_stay_for_output_that_the_journal_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "nobody"))
    output, run = tmp_path / "out.log", wire.RunUid("run")
    output.write_text("one\n")
    header = Header(boot_id="boot", pid_namespace="pids")
    before = Journal(str(tmp_path / "executor.journal"), header)
    before.rewrite([], Instant(0.0))
    whole = wire.Exit(at=1.0, exit_code=0)
    before.append(Gone(uid=run, at=1.0, output_path=str(output), exit=whole, forwarded=0))
    before.flush()
    before.close()

    embedded = World(tmp_path, embedded=True)
    embedded.deliver(wire.Forget(uid=run))
    assert embedded.stays
    embedded.deliver(wire.Leave())

    assert not embedded.stays
    (left,) = Journal(before.path, header).predecessors_runs()
    assert (run, 0) == (left.uid, left.forwarded)
