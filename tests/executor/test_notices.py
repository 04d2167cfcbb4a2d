"""Workers that use systemd's own protocol, as the executor reads them."""

import array
import os
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dispatcher import times, wire
from dispatcher.executor.notice_sockets import MOST_BYTES
from tests.eventually import PATIENCE, eventually
from tests.executor.conftest import Home
from tests.executor.daemon import Daemon


def start(home: Home, daemon: Daemon, *command: str, **settings: Any) -> tuple[str, Path]:
    """Start a run with a lease of a minute; return its uid and its socket."""
    command = command or ("sleep", "60")
    uid = daemon.start(
        list(command),
        home.state_dir / f"{os.urandom(4).hex()}.log",
        **{"watchdog": 60.0, **settings},
    )
    daemon.expect(wire.Started, uid)
    return uid, home.runtime_dir / "notify" / uid


def sender(path: Path) -> socket.socket:
    """Return a socket whose other end is a run's."""
    out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    out.settimeout(PATIENCE)
    out.connect(str(path))
    return out


def send(path: Path, *messages: bytes) -> None:
    """Send messages for a run and close the socket."""
    with sender(path) as out:
        for message in messages:
            out.send(message)


def acknowledge(daemon: Daemon, uid: str) -> wire.Notice:
    """Return the next notice, acknowledged as by a daemon."""
    notice = daemon.expect(wire.Notice, uid)
    daemon.send(wire.Noted(uid=notice.uid, serial=notice.serial))
    return notice


def test_a_worker_finds_its_own_socket_and_whose_watchdog_it_is(home: Home, daemon: Daemon) -> None:
    """No WATCHDOG_PID: the program that beats may be a child of the one that was started."""
    output = home.state_dir / "env.log"
    uid = daemon.start(["env"], output, watchdog=1.5, env={"NOTIFY_SOCKET": "/another"})
    daemon.expect(wire.Exited, uid)
    found = dict(line.split("=", 1) for line in output.read_text().splitlines())

    assert str(home.runtime_dir / "notify" / uid) == found["NOTIFY_SOCKET"]
    assert "1500000" == found["WATCHDOG_USEC"]
    assert "WATCHDOG_PID" not in found
    assert [] == list((home.runtime_dir / "notify").iterdir())


def test_a_worker_that_wants_none_has_none(home: Home, daemon: Daemon) -> None:
    output = home.state_dir / "env.log"
    uid = daemon.start(["env"], output)
    daemon.expect(wire.Exited, uid)

    assert "NOTIFY_SOCKET" not in output.read_text()


def test_anybody_let_in_may_send_and_nobody_may_list(home: Home, daemon: Daemon) -> None:
    _, path = start(home, daemon)

    assert 0o666 == stat.S_IMODE(path.stat().st_mode)
    assert 0o711 == stat.S_IMODE(path.parent.stat().st_mode)
    assert 0o700 == stat.S_IMODE(home.runtime_dir.stat().st_mode)


def test_a_notice_is_reported_again_until_it_is_acknowledged(home: Home, daemon: Daemon) -> None:
    """A notice that a dead daemon read, or did not, reaches the next one before the runs."""
    uid, path = start(home, daemon)
    send(path, b"WATCHDOG=1\nSTATUS=one")
    first = daemon.expect(wire.Notice, uid)
    send(path, b"STATUS=two")
    daemon.close()
    later = home.daemon(greet=False)
    later.expect(wire.HelloEnd)
    kinds = [type(message) for message in later.messages]
    again = acknowledge(later, uid)

    assert (True, "one") == (first.beat, first.note)
    assert (True, "two") == (again.beat, again.note)
    assert [wire.Hello, wire.Notice, wire.RunReport] == kinds
    later.ping()
    last = home.daemon(greet=False)
    last.expect(wire.HelloEnd)
    assert [wire.Hello, wire.RunReport] == [type(message) for message in last.messages]


def test_a_notice_sent_before_the_end_is_reported_before_it(home: Home, daemon: Daemon) -> None:
    script = """
import os, socket
out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
out.connect(os.environ["NOTIFY_SOCKET"])
out.send(b"STATUS=bye\\nWATCHDOG=trigger")
"""
    uid = daemon.start([sys.executable, "-ISc", script], home.state_dir / "out.log", watchdog=60.0)
    eventually(lambda: has_ended(daemon, uid))
    messages = [message for message in daemon.messages if getattr(message, "uid", None) == uid]

    notices = [m for m in messages if isinstance(m, wire.Notice)]
    assert (True, "bye") == (notices[-1].failed, notices[-1].note)
    assert isinstance(messages[-1], wire.Exited)


def has_ended(daemon: Daemon, uid: str) -> None:
    daemon.messages = daemon.messages + daemon.ping()
    assert any(isinstance(m, wire.Exited) and m.uid == uid for m in daemon.messages)


def test_junk_floods_and_descriptors_harm_no_other_run(home: Home, daemon: Daemon) -> None:
    """Oversize and senseless messages, 253 descriptors with each, a full queue."""
    process = home.processes[-1]
    noisy, loud = start(home, daemon)
    quiet, soft = start(home, daemon)
    before = descriptors(process.pid)
    reader, writer = os.pipe()
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writer] * 253))]
    with sender(loud) as out:
        for _ in range(20):
            out.sendmsg([b"BARRIER=1"], passed)
        os.close(writer)
        assert b"" == os.read(reader, 1)  # that all copies are closed is what a barrier waits for
        for junk in (b"", b"\0" * 100, b"WATCHDOG", b"=", b"WATCHDOG=1" + b"\n" * MOST_BYTES):
            out.send(junk)
        out.send(b"EXTEND_TIMEOUT_USEC=-1\nEXTEND_TIMEOUT_USEC=" + b"9" * 999)
        out.setblocking(False)
        with home.stopped():
            fill(out)
    os.close(reader)
    send(soft, b"WATCHDOG=1")

    assert acknowledge(daemon, quiet).beat
    assert before == descriptors(process.pid)
    notices = [m for m in daemon.ping() if isinstance(m, wire.Notice) and m.uid == noisy]
    assert [] == notices
    send(loud, b"STATUS=a\0b\xff\nWATCHDOG=1")
    assert (True, "a\ufffdb\ufffd") == (
        (messages := acknowledge(daemon, noisy)).beat,
        messages.note,
    )


def fill(out: socket.socket) -> None:
    """Send until nothing more is taken."""
    with suppress(BlockingIOError):
        while True:
            out.send(b"x" * MOST_BYTES)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_flood_is_reported_now_and_then_and_its_last_notice_counts(
    home: Home, daemon: Daemon
) -> None:
    uid, path = start(home, daemon)
    with sender(path) as out:
        for number in range(200):
            out.send(b"WATCHDOG=1\nSTATUS=%d" % number)
    notices = [acknowledge(daemon, uid)]
    while notices[-1].note != "199":
        notices.append(acknowledge(daemon, uid))

    assert len(notices) < 100


def test_a_new_executor_removes_what_the_last_one_left(home: Home, daemon: Daemon) -> None:
    uid, path = start(home, daemon)
    home.processes[-1].kill()
    home.processes[-1].wait()
    assert path.exists()
    home.executor()
    later = home.daemon()

    assert wire.RunState.GONE is later.runs[uid].state
    assert not path.exists()


def test_no_room_for_its_socket_is_the_hosts_fault(home: Home, daemon: Daemon) -> None:
    directory = home.runtime_dir / "notify"
    directory.rmdir()
    directory.symlink_to("/sys")  # where nobody may make anything
    uid = daemon.start(["true"], home.state_dir / "out.log", watchdog=60.0)
    failed = daemon.expect(wire.StartFailed, uid)

    assert wire.Fault.HOST is failed.fault
    assert "cannot make its notify socket" in failed.error


def test_a_run_moves_its_own_deadline_as_far_as_it_may(home: Home, daemon: Daemon) -> None:
    now = times.instant()
    deadlines = {wire.EndedBy.RUN_TIMEOUT: now + 1.0}
    patient, path = start(home, daemon, deadlines=deadlines, longest=now + 600)
    bound, other = start(home, daemon, deadlines=deadlines, longest=now - 0.5)
    send(path, b"EXTEND_TIMEOUT_USEC=60000000")
    send(other, b"EXTEND_TIMEOUT_USEC=60000000")
    ended = daemon.expect(wire.Exited, bound)
    until = acknowledge(daemon, patient).until
    reported = home.daemon().runs[patient]

    assert wire.EndedBy.RUN_TIMEOUT == ended.ended_by
    assert now + 1.0 < ended.exit.at < now + 4
    assert until == pytest.approx(now + 60, abs=5)
    assert (until, wire.RunState.RUNNING) == (reported.until, reported.state)
