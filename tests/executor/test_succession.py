"""An executor died: what its successor ends, and what it reports (protocol 2.3 and 2.4)."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher import times, wire
from tests.eventually import eventually
from tests.executor.conftest import Home
from tests.executor.daemon import Daemon
from tests.executor.test_ending import ALL_WAYS, WAYS
from tests.executor.workers import WITHOUT_MARKER, cpu_seconds, escapes, lives, pid_in


def dies(home: Home) -> None:
    process = home.processes[-1]
    process.send_signal(signal.SIGKILL)
    process.wait()


def succeeded(home: Home, *options: str) -> Daemon:
    """Let a successor begin and return a daemon that it has greeted."""
    home.executor(*options)
    return home.daemon()


def test_survivors_are_gone_before_the_successors_hello(home: Home, daemon: Daemon) -> None:
    uids = [daemon.start(["sleep", "1000"], home.output(str(n))) for n in range(20)]
    pids = [daemon.expect(wire.Started, uid).pid for uid in uids]

    dies(home)
    assert all(map(lives, pids))
    later = succeeded(home)

    assert [] == [pid for pid in pids if lives(pid)]
    assert {wire.RunState.GONE} == {later.runs[uid].state for uid in uids}
    assert {wire.EndedBy.SWEPT} == {later.runs[uid].ended_by for uid in uids}
    vanished = [later.runs[uid].exit for uid in uids]
    assert {(None, None)} == {(exit_.exit_code, exit_.signal) for exit_ in vanished if exit_}


#: Not covered (protocol 5): nothing is left by which it could be found.
COVERED = [ways for ways in ALL_WAYS if set(ways) != set(WAYS)]


@pytest.mark.parametrize("leader", ["leader", "-"])
def test_r13_escaped_grandchildren_are_swept_too(
    home: Home, daemon: Daemon, tmp_path: Path, leader: str
) -> None:
    """All at once: each is found by what it kept, whatever the others are found by."""
    grandchildren = {}
    for ways in COVERED:
        file = tmp_path / f"pid+{'+'.join(ways)}"
        command = escapes(file, leader, *ways)
        uid = daemon.start(command, home.output(file.name), leftover_grace=1000.0)
        grandchildren[uid] = pid_in(file)
        if leader == "leader":
            daemon.expect(wire.Changed, uid)

    dies(home)
    assert all(map(lives, grandchildren.values()))
    later = succeeded(home)

    for uid, ways in zip(grandchildren, COVERED, strict=True):
        assert not lives(grandchildren[uid]), ways
        exit_ = later.runs[uid].exit
        assert exit_ is not None, ways
        end = (5, None) if leader == "leader" else (None, "swept")
        assert end == (exit_.exit_code, later.runs[uid].ended_by), ways


def test_two_hundred_survivors_that_only_their_output_gives_away_are_found_together(
    home: Home, daemon: Daemon
) -> None:
    """Each looked for by itself took four seconds of CPU."""
    uids = [daemon.start(WITHOUT_MARKER, home.output(str(n))) for n in range(200)]
    for uid in uids:
        daemon.expect(wire.Started, uid)

    dies(home)
    later = succeeded(home)

    assert {wire.RunState.GONE} == {later.runs[uid].state for uid in uids}
    assert cpu_seconds(home.processes[-1].pid) <= 1.5


def test_r31_the_successor_reports_the_exit_codes_in_the_journal(
    home: Home, daemon: Daemon
) -> None:
    output = home.output("a")
    uid = daemon.start(["sh", "-c", "echo last words; exit 75"], output)
    exited = daemon.expect(wire.Exited, uid)
    forgotten = daemon.start(["true"], home.output("b"))
    daemon.expect(wire.Exited, forgotten)
    daemon.send(wire.Forget(uid=forgotten))
    daemon.ping()

    dies(home)
    later = succeeded(home)

    assert {uid} == set(later.runs)
    assert exited.exit == later.runs[uid].exit
    assert "last words\n" == exited.exit.tail


def test_an_ending_that_was_journaled_is_kept(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sh", "-c", "trap '' TERM; sleep 1000 & wait; wait"], home.output())
    daemon.expect(wire.Started, uid)
    daemon.send(wire.End(uid=uid, reason="timed_out"))
    daemon.ping()

    dies(home)
    later = succeeded(home)

    assert "timed_out" == later.runs[uid].ended_by


def test_the_successors_successor_still_knows(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sh", "-c", "exit 3"], home.output())
    daemon.expect(wire.Exited, uid)

    dies(home)
    succeeded(home).close()
    dies(home)
    later = succeeded(home)

    assert later.runs[uid].exit is not None
    assert 3 == later.runs[uid].exit.exit_code
    later.send(wire.Forget(uid=uid))
    later.ping()
    dies(home)
    assert {} == succeeded(home).runs


def test_r23_a_leader_that_was_not_yet_journaled_is_found_by_its_marker(
    home: Home, daemon: Daemon
) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())
    pid = daemon.expect(wire.Started, uid).pid
    dies(home)
    without(home, "started")

    later = succeeded(home)

    assert not lives(pid)
    assert (wire.RunState.GONE, None) == (later.runs[uid].state, later.runs[uid].pid)


def test_r23_and_by_its_output_when_it_has_no_marker(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["env", "-i", "/bin/sleep", "1000"], home.output())
    pid = daemon.expect(wire.Started, uid).pid
    eventually_named(pid, "sleep")
    dies(home)
    without(home, "started")

    later = succeeded(home)

    assert not lives(pid)
    assert wire.RunState.GONE == later.runs[uid].state


def eventually_named(pid: int, name: str) -> None:
    def probe() -> None:
        assert name == Path(f"/proc/{pid}/comm").read_text().strip()

    eventually(probe)


def without(home: Home, event: str) -> None:
    """Take an event out of the journal, as if death had come before it."""
    lines = home.journal.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["event"] != event]
    home.journal.write_text("".join(kept))


def test_a_run_that_was_never_spawned_is_reported_as_vanished(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["true"], home.output())
    daemon.expect(wire.Exited, uid)
    dies(home)
    without(home, "started")
    without(home, "gone")

    run = succeeded(home).runs[uid]

    assert (wire.RunState.GONE, None) == (run.state, run.ended_by)
    assert run.exit is not None
    assert (None, None) == (run.exit.exit_code, run.exit.signal)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def write_journal(home: Home, *lines: dict[str, object], **header: str) -> None:
    home.state_dir.mkdir(exist_ok=True)
    first = {
        "event": "header",
        "boot_id": times.boot_id(),
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
        **header,
    }
    home.journal.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)))


def journaled_start(pid: int, ticks: int, home: Home, at: float) -> list[dict[str, object]]:
    return [
        {"event": "starting", "uid": "u", "output_path": str(home.output()), "at": at},
        {"event": "started", "uid": "u", "pid": pid, "start_ticks": ticks, "at": at},
    ]


def ticks_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_r15_a_stranger_with_a_recycled_pid_is_let_alone(
    home: Home, stranger: subprocess.Popen[bytes]
) -> None:
    """Same pid, other start: neither it nor its session is what the journal meant."""
    at = times.instant()
    write_journal(home, *journaled_start(stranger.pid, ticks_of(stranger.pid) - 1, home, at))

    later = succeeded(home)

    assert (wire.RunState.GONE, None) == (later.runs["u"].state, later.runs["u"].ended_by)
    assert stranger.poll() is None


def test_r15_a_strangers_session_without_its_leader_is_let_alone(
    home: Home, tmp_path: Path
) -> None:
    """All that is left has a session of the journaled number; it was born too late to be ours."""
    stay = f"sleep 1000 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid"
    leader = subprocess.Popen(["sh", "-c", stay], start_new_session=True)
    member = pid_in(tmp_path / "pid")
    leader.wait()
    long_ago = (ticks_of(member) - 10) / os.sysconf("SC_CLK_TCK")
    write_journal(home, *journaled_start(leader.pid, ticks_of(member) - 100, home, long_ago))

    later = succeeded(home)

    assert wire.RunState.GONE == later.runs["u"].state
    assert lives(member)


def test_r15_but_a_session_that_was_ours_is_ended(home: Home, tmp_path: Path) -> None:
    """As before, but the journal's last word is younger than the member: it was of our leader."""
    stay = f"sleep 1000 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid"
    leader = subprocess.Popen(["sh", "-c", stay], start_new_session=True)
    member = pid_in(tmp_path / "pid")
    leader.wait()
    write_journal(
        home, *journaled_start(leader.pid, ticks_of(member) - 1, home, times.instant() + 1)
    )

    later = succeeded(home)

    assert wire.EndedBy.SWEPT == later.runs["u"].ended_by
    assert not lives(member)


@pytest.mark.parametrize("header", [{"boot_id": "other"}, {"pid_namespace": "pid:[1]"}])
def test_another_boots_journal_is_about_nobody(
    home: Home, stranger: subprocess.Popen[bytes], header: dict[str, str]
) -> None:
    lines = journaled_start(stranger.pid, ticks_of(stranger.pid), home, times.instant())
    write_journal(home, *lines, **header)

    later = succeeded(home)

    assert {} == later.runs
    assert stranger.poll() is None
    assert "starting" not in home.journal.read_text()


def test_a_torn_last_line_is_ignored(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sh", "-c", "exit 3"], home.output())
    daemon.expect(wire.Exited, uid)
    dies(home)
    with home.journal.open("a") as journal:
        journal.write('{"event":"forgotten","uid":"' + uid[:5])

    run = succeeded(home).runs[uid]

    assert run.exit is not None
    assert 3 == run.exit.exit_code


def test_the_journal_holds_no_secret(home: Home, daemon: Daemon) -> None:
    secrets = {"env": {"DISPATCHER_CLAIM_LOCK": "l0ck"}, "payload": "p4yload"}
    uid = daemon.start(["sh", "-c", "echo 0utput; exit 1"], home.output(), **secrets)
    daemon.expect(wire.Exited, uid)

    written = home.journal.read_text() + home.log.read_text()

    assert [] == [word for word in ("l0ck", "p4yload", "0utput") if word in written]
    assert 0o600 == home.journal.stat().st_mode & 0o777


def test_a_survivor_of_the_sweep_is_reported_as_unkillable_and_tried_again(
    home: Home, daemon: Daemon
) -> None:
    """The lock on its output is held by somebody whom no process listing shows as a writer."""
    uid = daemon.start(["true"], home.output())
    daemon.expect(wire.Exited, uid)
    dies(home)
    without(home, "gone")
    holder = subprocess.Popen(["flock", "--no-fork", str(home.output()), "sleep", "1000"])
    eventually_locked(home.output())

    began = times.instant()
    later = succeeded(home)

    assert times.instant() - began >= 5.0
    assert wire.RunState.UNKILLABLE == later.runs[uid].state
    assert holder.poll() is None  # it only reads the file: it is not a worker
    holder.kill()
    holder.wait()
    assert uid == later.expect(wire.Exited, uid).uid


def eventually_locked(path: Path) -> None:
    def probe() -> None:
        assert 0 != subprocess.run(["flock", "-n", str(path), "true"], check=False).returncode

    eventually(probe)
