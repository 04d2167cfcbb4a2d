"""Ending runs: signals, tree, leftovers and strays, with real processes (protocol 2.9 to 2.11)."""

import resource
import signal
import sys
from itertools import chain, combinations
from pathlib import Path

import pytest

from dispatcher import times, wire, worker_api
from dispatcher.host.marks import mark_of
from tests.eventually import eventually
from tests.executor.conftest import Home
from tests.executor.daemon import Daemon
from tests.executor.workers import (
    STUBBORN,
    WITHOUT_MARKER,
    WITHOUT_TRACE,
    below,
    children,
    cpu_seconds,
    escapes,
    lives,
    name_of,
    pid_in,
)

WAYS = ("mark", "session", "environment", "output")
ALL_WAYS = list(chain.from_iterable(combinations(WAYS, n) for n in range(len(WAYS) + 1)))


@pytest.fixture
def home(shared: Home) -> Home:
    return shared


@pytest.fixture
def daemon(next_daemon: Daemon) -> Daemon:
    return next_daemon


@pytest.mark.parametrize("ways", ALL_WAYS, ids=lambda ways: "+".join(ways) or "none")
def test_r13_a_grandchild_that_escaped_ends_with_its_run(
    home: Home, daemon: Daemon, tmp_path: Path, ways: tuple[str, ...]
) -> None:
    uid = daemon.start(escapes(tmp_path / "pid", *ways), home.output())
    grandchild = pid_in(tmp_path / "pid")
    assert lives(grandchild)

    daemon.send(wire.End(uid=uid, reason="cancelled", at_once=True))
    exited = daemon.expect(wire.Exited, uid)

    assert not lives(grandchild)
    assert ("cancelled", signal.SIGKILL) == (exited.ended_by, exited.exit.signal)


@pytest.mark.parametrize("ways", ALL_WAYS, ids=lambda ways: "+".join(ways) or "none")
def test_r13_processes_that_outlive_their_leader_have_a_grace_and_then_end(
    home: Home, daemon: Daemon, tmp_path: Path, ways: tuple[str, ...]
) -> None:
    began = times.instant()
    command = escapes(tmp_path / "pid", "leader", *ways)
    uid = daemon.start(command, home.output(), leftover_grace=0.3)

    changed = daemon.expect(wire.Changed, uid)
    grandchild = pid_in(tmp_path / "pid")
    exited = daemon.expect(wire.Exited, uid)

    assert wire.RunState.LEADER_EXITED == changed.state
    assert changed.exit is not None
    assert 5 == changed.exit.exit_code == exited.exit.exit_code
    assert exited.ended_by is None
    assert ("sleep",) == exited.exit.leftovers
    assert not lives(grandchild)
    assert times.instant() - began >= 0.3
    ended = [one for one in home.events("worker.leftover_ended") if one["uid"] == uid]
    assert [["sleep"]] == [event["names"] for event in ended]


def test_leftovers_that_end_in_their_grace_are_not_reported(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sh", "-c", "sleep 0.2 &"], home.output(), leftover_grace=10)

    exited = daemon.expect(wire.Exited, uid)

    assert () == exited.exit.leftovers
    assert 0 == exited.exit.exit_code


def test_the_kill_signal_comes_first_and_is_the_tasks(home: Home, daemon: Daemon) -> None:
    polite = "trap 'echo bye; exit 3' USR1; echo ready; while :; do sleep 0.05; done"
    uid = daemon.start(["sh", "-c", polite], home.output(), kill_signal=int(signal.SIGUSR1))
    home.expect_ready()
    daemon.send(wire.End(uid=uid, reason="cancelled"))
    exited = daemon.expect(wire.Exited, uid)

    assert (3, None) == (exited.exit.exit_code, exited.exit.signal)
    assert exited.exit.tail.endswith("bye\n")
    assert "cancelled" == exited.ended_by


def test_a_master_ends_its_own_workers_where_the_signal_is_for_it_alone(
    home: Home, daemon: Daemon
) -> None:
    worker = "trap 'echo worker caught' TERM; echo ready; while [ ! -e go ]; do sleep 0.02; done"
    master = f"trap 'touch go' TERM; sh -c \"{worker}\" & child=$!; wait; wait $child; exit 4"
    command = ["sh", "-c", f"cd {home.outputs}; {master}"]
    uid = daemon.start(command, home.output(), kill_mode=wire.KillMode.LEADER, kill_grace=60.0)
    home.expect_ready()
    daemon.send(wire.End(uid=uid, reason="cancelled"))
    exited = daemon.expect(wire.Exited, uid)

    assert (4, None) == (exited.exit.exit_code, exited.exit.signal)
    assert "ready\n" == home.output().read_text()


def test_r17_a_worker_that_ignores_the_signal_is_killed_after_its_grace(
    home: Home, daemon: Daemon
) -> None:
    uid = daemon.start(STUBBORN, home.output(), kill_grace=0.4)
    daemon.expect(wire.Started, uid)
    ignores_by_now(home)
    began = times.instant()

    daemon.send(wire.End(uid=uid, reason="lost"))
    exited = daemon.expect(wire.Exited, uid)

    assert exited.exit.at - began >= 0.4
    assert signal.SIGKILL == exited.exit.signal


def ignores_by_now(home: Home) -> None:
    """Wait for the stubborn worker's sleeping grandchild: all traps are set before it is there."""
    executor = home.processes[0].pid

    def probe() -> None:
        assert "sleep" in [name_of(pid) for pid in below(executor)]

    eventually(probe)


def test_a_stopped_worker_is_continued_to_receive_its_signal(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sh", "-c", "kill -STOP $$; exec sleep 1000"], home.output())
    leader = daemon.expect(wire.Started, uid).pid

    def stopped() -> None:
        assert "T" == Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[0]

    eventually(stopped)
    daemon.send(wire.End(uid=uid, reason="cancelled"))

    assert signal.SIGTERM == daemon.expect(wire.Exited, uid).exit.signal


def test_at_once_skips_the_rest_of_the_grace(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(STUBBORN, home.output(), kill_grace=1000.0)
    daemon.expect(wire.Started, uid)
    ignores_by_now(home)

    daemon.send(wire.End(uid=uid, reason="released"))
    messages = daemon.ping()
    daemon.send(wire.End(uid=uid, reason="cancelled", at_once=True))

    assert [] == [m for m in messages if isinstance(m, wire.Exited)]
    assert "released" == daemon.expect(wire.Exited, uid).ended_by


@pytest.mark.parametrize(
    "command",
    [STUBBORN, WITHOUT_MARKER, WITHOUT_TRACE],
    ids=["stubborn", "without marker", "without trace"],
)
def test_r20_two_hundred_stubborn_trees_do_not_hold_up_anyone(
    own: Home, command: list[str]
) -> None:
    """They are not compared each with each: that took seconds of CPU, for 400 tens of seconds."""
    executor = own.executor().pid
    daemon = own.daemon()
    uids = [daemon.start(command, own.output(str(n)), kill_grace=1000.0) for n in range(200)]
    for uid in uids:
        daemon.expect(wire.Started, uid)
    daemon.send(*(wire.End(uid=uid, reason="lost") for uid in uids))

    for number in range(3):
        uid = daemon.start(["true"], own.output(f"other-{number}"))
        assert 0 == daemon.expect(wire.Exited, uid).exit.exit_code
    assert [] == [message for message in daemon.messages if isinstance(message, wire.Exited)]
    daemon.send(*(wire.End(uid=uid, reason="lost", at_once=True) for uid in uids))
    for uid in uids:
        assert "lost" == daemon.expect(wire.Exited, uid).ended_by

    assert cpu_seconds(executor) <= 1.5
    assert [] == children(executor)


def test_a_kill_deadline_is_kept_without_any_daemon(home: Home, daemon: Daemon) -> None:
    at = times.instant()
    soon, late = {"absence": at + 0.3, "run_timeout": at + 3600}, {"absence": at + 3600}
    ended = daemon.start(["sleep", "1000"], home.output("a"), deadlines=soon)
    stays = daemon.start(["sleep", "1000"], home.output("b"), deadlines=late)
    daemon.expect(wire.Started, stays)
    daemon.close()

    def listed() -> Daemon:
        later = home.daemon()
        assert wire.RunState.GONE == later.runs[ended].state
        return later

    later = eventually(listed, every=0.1)
    assert wire.EndedBy.ABSENCE == later.runs[ended].ended_by
    assert wire.RunState.RUNNING == later.runs[stays].state


def test_an_ending_by_the_executor_is_reported_before_the_exit(home: Home, daemon: Daemon) -> None:
    deadlines = {"run_timeout": times.instant() + 0.2}
    uid = daemon.start(["sleep", "1000"], home.output(), deadlines=deadlines)

    changed = daemon.expect(wire.Changed, uid)

    assert (wire.RunState.ENDING, "run_timeout") == (changed.state, changed.ended_by)
    assert "run_timeout" == daemon.expect(wire.Exited, uid).ended_by


def test_renew_moves_a_deadline_on_and_never_back(home: Home, daemon: Daemon) -> None:
    at = times.instant()
    with home.stopped():  # so that it reads all of it at once, however late that is
        moved = daemon.start(["sleep", "0.6"], home.output("a"), deadlines={"absence": at + 0.3})
        kept = daemon.start(["sleep", "0.6"], home.output("b"), deadlines={"absence": at + 3600})

        deadlines = {moved: {"absence": at + 3600}, kept: {"absence": at - 1}}
        daemon.send(wire.Renew(deadlines=deadlines))

    for uid in (moved, kept):
        exited = daemon.expect(wire.Exited, uid)
        assert (0, None) == (exited.exit.exit_code, exited.ended_by)


def test_renew_may_add_a_deadline(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())
    daemon.expect(wire.Started, uid)

    daemon.send(wire.Renew(deadlines={uid: {"absence": times.instant() + 0.1}}))

    assert "absence" == daemon.expect(wire.Exited, uid).ended_by


def test_an_end_after_the_exit_is_nothing(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["true"], home.output())
    daemon.expect(wire.Exited, uid)

    daemon.send(wire.End(uid=uid, reason="lost"))

    assert [] == [m for m in daemon.ping() if not isinstance(m, wire.Started)]


def test_an_end_of_a_run_that_it_does_not_know_is_answered_once_nothing_of_it_is_left(
    home: Home, daemon: Daemon
) -> None:
    daemon.send(wire.End(uid=wire.RunUid("d" * 32), reason="orphaned"))

    exited = daemon.expect(wire.Exited, "d" * 32)

    assert (None, None) == (exited.exit.exit_code, exited.ended_by)


def test_a_run_that_lives_is_not_forgotten(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())
    daemon.expect(wire.Started, uid)

    daemon.send(wire.Forget(uid=uid))
    daemon.send(wire.End(uid=uid, reason="cancelled"))

    assert "cancelled" == daemon.expect(wire.Exited, uid).ended_by


def test_an_end_in_the_same_batch_as_its_start_ends_the_run(home: Home, daemon: Daemon) -> None:
    uid = wire.RunUid("u" * 32)
    start = wire.Start(
        uid=uid,
        epoch=daemon.hello.epoch,
        command=("sleep", "1000"),
        env={worker_api.MARKER: uid},
        output_path=str(home.output()),
    )
    daemon.send(start, wire.End(uid=uid, reason="cancelled"))

    assert "cancelled" == daemon.expect(wire.Exited, uid).ended_by


def test_a_stray_is_ended_with_the_last_run_it_may_belong_to(
    home: Home, daemon: Daemon, tmp_path: Path
) -> None:
    other = daemon.start(["sleep", "1000"], home.output("other"))
    daemon.expect(wire.Started, other)
    hidden = escapes(tmp_path / "pid", "leader", *WAYS)
    uid = daemon.start(hidden, home.output(), leftover_grace=0.0)
    stray = daemon.expect(wire.Stray)
    escaped = pid_in(tmp_path / "pid")

    assert {other, uid} == set(stray.candidates)
    assert (escaped, "sleep") == (stray.pid, stray.name)
    assert 5 == daemon.expect(wire.Exited, uid).exit.exit_code
    assert lives(escaped)

    daemon.send(wire.End(uid=other, reason="cancelled"))
    daemon.expect(wire.Exited, other)

    assert not lives(escaped)
    assert 1 == [event["pid"] for event in home.events("worker.stray")].count(escaped)


def test_r30_no_zombie_is_left_behind(home: Home, daemon: Daemon) -> None:
    """Orphans that die while their leader lives are reaped within the second."""
    forks = "for i in 1 2 3 4 5 6 7 8; do (sleep 0.1 & exit) & done; exec sleep 1000"
    uid = daemon.start(["sh", "-c", forks], home.output())
    leader = daemon.expect(wire.Started, uid).pid
    executor = home.processes[0].pid

    def only_the_leader() -> None:
        assert [leader] == children(executor)

    eventually(only_the_leader)
    daemon.send(wire.End(uid=uid, reason="cancelled"))
    daemon.expect(wire.Exited, uid)

    assert [] == children(executor)


def test_a_fork_bomb_ends(home: Home, daemon: Daemon) -> None:
    """SIGKILL is repeated while new members appear; each of these leaves session and group."""
    bomb = (
        "import os, time\n"
        "while True:\n"
        "    if os.fork():\n"
        "        time.sleep(0.004)\n"
        "        os._exit(0)\n"
        "    os.setsid()\n"
    )
    graces = {"leftover_grace": 0.1, "kill_grace": 0.1}
    uid = daemon.start([sys.executable, "-SE", "-c", bomb], home.output(), **graces)

    exited = daemon.expect(wire.Exited, uid)

    assert 0 == exited.exit.exit_code
    assert [] == children(home.processes[0].pid)


def test_a_subreaper_below_us_hides_nothing(home: Home, daemon: Daemon, tmp_path: Path) -> None:
    """A nested dispatcher: its orphans never become ours while it lives."""
    pid_file = tmp_path / "pid"
    nested = (
        "import ctypes, os, sys\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)\n"
        "os.execv('/bin/sleep', ['sleep', '1000'])\n"
    )
    inner = escapes(pid_file, "leader", *WAYS)
    uid = daemon.start([sys.executable, "-c", nested, *inner], home.output())
    hidden = pid_in(pid_file)

    daemon.send(wire.End(uid=uid, reason="cancelled", at_once=True))
    daemon.expect(wire.Exited, uid)

    assert not lives(hidden)


def test_a_hard_limit_that_forbids_marks_is_reported_and_other_signs_still_hold(
    own: Home, tmp_path: Path
) -> None:
    executor = own.executor(
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_RTTIME, (10**6, 10**6))
    )
    daemon = own.daemon()
    (reported,) = own.events("mark.unavailable")
    uid = daemon.start(escapes(tmp_path / "pid", "session"), own.output())
    grandchild = pid_in(tmp_path / "pid")

    daemon.send(wire.End(uid=uid, reason="cancelled", at_once=True))
    daemon.expect(wire.Exited, uid)

    assert "RLIMIT_RTTIME" in reported["reason"]
    assert not lives(grandchild)
    assert executor.poll() is None


def test_an_executor_keeps_its_own_limit_whatever_it_lends_its_leaders(
    home: Home, daemon: Daemon
) -> None:
    before = resource.prlimit(home.processes[0].pid, resource.RLIMIT_RTTIME)
    uid = daemon.start(["sleep", "1000"], home.output())
    leader = daemon.expect(wire.Started, uid).pid

    assert mark_of(uid) == resource.prlimit(leader, resource.RLIMIT_RTTIME)[0]
    assert before == resource.prlimit(home.processes[0].pid, resource.RLIMIT_RTTIME)
