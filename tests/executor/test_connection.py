"""One connection at a time, greeted anew each time; nonsense ends it and nothing else."""

import os
import shutil
import socket
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from dispatcher import times, wire
from dispatcher.executor.output.files import MOST_EMPTY
from tests.executor.conftest import Home
from tests.executor.daemon import Daemon
from tests.executor.workers import children


def test_the_hello_names_the_owner_of_the_executor(home: Home) -> None:
    process = home.executor()
    daemon = home.daemon()
    (home.state_dir / "store-id").write_text("the-store\n")

    hello = home.daemon().hello

    assert (wire.VERSION, home.node_id, str(home.state_dir)) == (
        hello.version,
        hello.node_id,
        hello.state_dir,
    )
    assert (times.boot_id(), os.readlink("/proc/self/ns/pid")) == (
        hello.boot_id,
        hello.pid_namespace,
    )
    assert ("the-store", 2, process.pid) == (hello.store_id, hello.epoch, hello.pid)
    assert "" == daemon.hello.store_id


def test_each_connection_gets_the_same_door_for_workers(home: Home, daemon: Daemon) -> None:
    """Connections made while a daemon restarts wait in the backlog of the next."""
    with socket.socket(socket.AF_UNIX) as worker:
        daemon.close()
        worker.connect(str(home.runtime_dir / "worker.sock"))
        worker.sendall(b"beat")
        later = home.daemon()

        (door,) = later.passed
        with socket.socket(fileno=os.dup(door)) as listening:
            accepted, _ = listening.accept()
            with accepted:
                assert b"beat" == accepted.recv(10)


def test_the_sockets_are_this_users_alone(home: Home, daemon: Daemon) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.runtime_dir.iterdir()}

    notices = modes.pop("notify")  # a peer that is let in here must know which of them it wants
    assert 0o711 == notices
    assert {"executor.sock": 0o600, "worker.sock": 0o600, "executor.lock": 0o600} == modes
    assert 0o700 == stat.S_IMODE(home.runtime_dir.stat().st_mode)


def test_2_1_a_new_connection_ends_the_old_one_and_begins_an_epoch(
    home: Home, daemon: Daemon
) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())
    started = daemon.expect(wire.Started, uid)

    later = home.daemon()

    assert daemon.at_end()
    assert (1, 2) == (daemon.hello.epoch, later.hello.epoch)
    run = later.runs[uid]
    assert (wire.RunState.RUNNING, started.pid, started.start_ticks) == (
        run.state,
        run.pid,
        run.start_ticks,
    )


def test_2_1_an_unread_start_of_a_dead_daemon_is_never_started(home: Home, daemon: Daemon) -> None:
    """The executor is stopped, as if it were busy, while one daemon dies and another comes."""
    with home.stopped():
        late = daemon.start(["true"], home.output("late"))
        later = home.daemon(greet=False)
    later.greeted()

    assert {} == later.runs
    uid = later.start(["true"], home.output())
    assert 0 == later.expect(wire.Exited, uid).exit.exit_code
    assert not home.output("late").exists()
    assert late not in home.journal.read_text()


def test_2_1_not_even_the_half_that_was_read(home: Home, daemon: Daemon) -> None:
    """More lines than a tick handles, and a line of which only the beginning came."""
    with home.stopped():
        for n in range(40):
            daemon.start(["true"], home.output(f"early-{n}"))
    some = daemon.expect(wire.Started).uid
    with home.stopped():
        line = wire.encode(wire.End(uid=some, reason="never"))
        daemon.socket.sendall(line[:10])
        later = home.daemon(greet=False)
    later.greeted()

    later.socket.sendall(b"\n")  # had the half stayed, this would be the end of its line
    assert later.at_end()
    (dropped,) = [event for event in home.events("daemon.dropped") if "not a" in event["reason"]]
    assert "it ends too early" in dropped["reason"]


@pytest.mark.parametrize(
    "junk",
    [
        b"\n",
        b"hello?\n",
        b"\xff\xfe\n",
        b'{"type":"start"}\n',
        b'{"type":"explode"}\n',
        b'{"type":"ping","sequence":"one"}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (wire.MAX_LINE + 1) + b"\n",
        b"x" * (wire.MAX_LINE + 1),
    ],
    ids=["empty", "words", "binary", "fields", "type", "value", "deep", "long", "endless"],
)
def test_nonsense_ends_only_the_connection(home: Home, daemon: Daemon, junk: bytes) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())
    daemon.expect(wire.Started, uid)

    with suppress(BrokenPipeError, ConnectionResetError):  # it had enough before it had all
        daemon.socket.sendall(junk)

    assert daemon.at_end()
    assert wire.RunState.RUNNING == home.daemon().runs[uid].state
    assert 1 == len(home.events("daemon.dropped"))


def test_a_line_of_the_greatest_length_is_read(home: Home, daemon: Daemon) -> None:
    payload = "x" * (wire.MAX_LINE - 1000)

    uid = daemon.start(["wc", "-c"], home.output(), payload=payload)

    assert f"{len(payload)}\n" == daemon.expect(wire.Exited, uid).exit.tail


def test_the_last_of_several_pings_is_answered(home: Home, daemon: Daemon) -> None:
    with home.stopped():
        daemon.send(wire.Ping(sequence=7), wire.Ping(sequence=8))

    assert 8 == daemon.expect(wire.Pong).sequence
    assert [] == daemon.ping(9)


def test_a_gone_run_is_reported_again_until_it_is_forgotten(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sh", "-c", "echo out; exit 3"], home.output())
    exited = daemon.expect(wire.Exited, uid)

    second = home.daemon()
    assert (wire.RunState.GONE, exited.exit) == (second.runs[uid].state, second.runs[uid].exit)
    second.send(wire.Forget(uid=uid), wire.Forget(uid=uid))
    second.ping()

    assert {} == home.daemon().runs


def test_a_quick_run_is_reported_in_one_batch(home: Home, daemon: Daemon) -> None:
    with home.stopped():
        uids = [daemon.start(["true"], home.output(str(n))) for n in range(20)]
    for uid in uids:
        daemon.expect(wire.Exited, uid)

    others = [m for m in daemon.messages if not isinstance(m, wire.Started)]
    assert [] == others  # no `changed`: a run that is gone at once was never in between


def test_hundreds_of_runs_cost_no_more_descriptors_than_empty_outputs_are_kept(
    home: Home, daemon: Daemon
) -> None:
    executor = home.processes[0].pid
    before = len(os.listdir(f"/proc/{executor}/fd"))

    for batch in range(3):
        names = [str(50 * batch + n) for n in range(50)]
        for uid in [daemon.start(["true"], home.output(name)) for name in names]:
            daemon.expect(wire.Exited, uid)

        assert [] == children(executor)
        opened = [os.readlink(file) for file in Path(f"/proc/{executor}/fd").iterdir()]
        kept = [path for path in opened if path.startswith(str(home.outputs))]
        assert before + len(kept) == len(opened)
        assert len(kept) == len({*kept}) <= MOST_EMPTY


def test_a_removed_socket_is_made_again_before_a_ping_is_answered(
    home: Home, daemon: Daemon
) -> None:
    """By that order a daemon knows of every silence whose it was, however short the lease."""
    uid = daemon.start(["sleep", "1000"], home.output(), watchdog=60.0)
    daemon.expect(wire.Started, uid)
    notify = home.runtime_dir / "notify" / uid
    daemon.send(*(wire.Ping(sequence=n) for n in range(2)))  # it has just looked
    daemon.expect(wire.Pong)

    for number, remove in enumerate((partial(shutil.rmtree, home.runtime_dir), notify.unlink)):
        daemon.passed.clear()
        remove()
        messages = daemon.ping(10 + number)

        assert wire.Door() in messages
        assert notify.is_socket()
        assert [] != daemon.passed or notify.unlink == remove
    (door,) = home.daemon().passed
    with socket.socket(fileno=os.dup(door)) as listening, socket.socket(socket.AF_UNIX) as worker:
        worker.connect(str(home.runtime_dir / "worker.sock"))
        listening.accept()[0].close()


def test_a_daemon_that_connects_while_the_sockets_are_missing_is_informed(
    home: Home, daemon: Daemon
) -> None:
    home.runtime_dir.rename(home.state_dir / "aside")
    home.runtime_dir.touch()
    assert [f"{home.runtime_dir}: File exists"] == [
        message.shut for message in daemon.ping() if isinstance(message, wire.Door)
    ]

    with Daemon(home.state_dir / "aside") as later:
        assert f"{home.runtime_dir}: File exists" == later.expect(wire.Door).shut
        home.runtime_dir.unlink()
        assert wire.Door() in later.ping()
