"""An executor that was stopped reads what happened meanwhile before it judges any time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dispatcher import times, wire
from tests.eventually import eventually
from tests.executor.conftest import Home
from tests.executor.daemon import Daemon

#: Seconds until the deadline that passes while it stands still.
SOON = 0.5


def at(seconds: float) -> float:
    return times.instant() + seconds


def wait_until(instant: float) -> None:
    def probe() -> None:
        assert times.instant() > instant

    eventually(probe)


def wait_for(file: Path) -> None:
    def probe() -> None:
        assert file.exists()

    eventually(probe)


@pytest.mark.parametrize("deadline", ["absence", "run_timeout"])
def test_a_run_that_exited_meanwhile_has_its_code_whatever_deadline_passed(
    home: Home, daemon: Daemon, deadline: str
) -> None:
    gate, done = home.outputs / "gate", home.outputs / "done"
    script = f"until [ -e {gate} ]; do sleep 0.01; done; touch {done}; exit 3"
    deadlines = {deadline: at(2.5)}
    uid = daemon.start(["sh", "-c", script], home.output(), deadlines=deadlines)
    daemon.expect(wire.Started, uid)

    with home.stopped():
        gate.touch()
        wait_for(done)
        wait_until(deadlines[deadline] + 0.1)

    exited = daemon.expect(wire.Exited, uid)
    assert (3, None) == (exited.exit.exit_code, exited.ended_by)


def test_a_run_that_was_confirmed_meanwhile_goes_on(home: Home, daemon: Daemon) -> None:
    """Its renewal waits behind more lines than are handled at once."""
    deadline = at(2.5)
    uid = daemon.start(["sleep", "1000"], home.output(), deadlines={"absence": deadline})
    daemon.expect(wire.Started, uid)

    with home.stopped():
        daemon.send(*[wire.Noted(uid=uid, serial=n) for n in range(200)])
        daemon.send(wire.Renew(deadlines={uid: {"absence": at(1000)}}))
        wait_until(deadline + 0.1)

    assert [] == daemon.ping()
    assert wire.RunState.RUNNING == home.daemon().runs[uid].state


def test_a_run_that_ended_within_its_grace_meanwhile_is_not_killed(
    home: Home, daemon: Daemon
) -> None:
    ready = home.outputs / "ready"
    script = f"trap 'kill $!; exit 7' TERM; sleep 1000 & touch {ready}; wait"
    uid = daemon.start(["sh", "-c", script], home.output(), kill_grace=SOON)
    daemon.expect(wire.Started, uid)
    wait_for(ready)

    with home.stopped():
        daemon.send(wire.End(uid=uid, reason="cancelled"))
    wait_until(at(0))
    exited = daemon.expect(wire.Exited, uid)

    assert (7, "cancelled") == (exited.exit.exit_code, exited.ended_by)
    assert [] == home.events("run.escalated")


_TRACER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
PTRACE_SEIZE = 0x4206
if libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None) != 0:
    sys.exit(f"cannot trace: errno {ctypes.get_errno()}")
print("seized", flush=True)
sys.stdin.read()
"""


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """Let another process trace this one, and never read its events."""
    with subprocess.Popen(
        [sys.executable, "-c", _TRACER, str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as tracer:
        assert tracer.stdin is not None
        assert tracer.stdout is not None
        assert tracer.stderr is not None
        if tracer.stdout.readline() != "seized\n":
            pytest.skip(f"this host lets nobody trace: {tracer.stderr.read()}")
        yield
        tracer.stdin.close()


def test_a_dead_leader_that_a_tracer_holds_costs_no_cpu_and_keeps_its_code(
    home: Home, daemon: Daemon
) -> None:
    gate = home.outputs / "gate"
    os.mkfifo(gate)
    # No child that ends: a signal, and the tracer would hold the living.
    uid = daemon.start(["sh", "-c", f"read word <{gate}; exit 3"], home.output())
    leader = psutil.Process(daemon.expect(wire.Started, uid).pid)
    executor = psutil.Process(home.processes[-1].pid)

    with traced(leader.pid):
        gate.write_text("go\n")
        eventually(lambda: _require(leader.status() == psutil.STATUS_ZOMBIE))
        spent, since = _cpu(executor), times.instant()
        wait_until(at(2))
        assert _cpu(executor) - spent < (times.instant() - since) / 4
        assert [] == [m for m in daemon.ping() if isinstance(m, wire.Exited)]

    assert 3 == daemon.expect(wire.Exited, uid).exit.exit_code


def _cpu(process: psutil.Process) -> float:
    times_ = process.cpu_times()
    return times_.user + times_.system


def _require(truth: object) -> None:
    assert truth
