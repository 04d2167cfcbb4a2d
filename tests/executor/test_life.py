"""The program: one per directory, deaf to the terminal, gone when it should be."""

import fcntl
import os
import resource
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from dispatcher import exit_codes, wire
from dispatcher.logs.catalogue import EXECUTOR
from tests.eventually import eventually
from tests.executor.conftest import Home
from tests.executor.daemon import Daemon
from tests.executor.workers import children, lives


def test_a_second_executor_is_refused_with_the_holder_of_the_lock(
    home: Home, daemon: Daemon
) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())
    daemon.expect(wire.Started, uid)

    second = home.executor()

    assert exit_codes.ExitCode.TEMPORARY == second.wait()
    (refused,) = home.events("executor.refused")
    assert f"pid {home.processes[0].pid}, holds {home.state_dir}/executor.lock" in refused["error"]
    assert [] == [m for m in daemon.ping() if isinstance(m, wire.Exited)]


def test_its_process_name_excludes_it_from_the_run_whose_mark_it_has_while_it_spawns(
    home: Home, daemon: Daemon
) -> None:
    daemon.ping()
    (process,) = home.processes

    assert f"executor{process.pid}\n" == Path(f"/proc/{process.pid}/comm").read_text("ascii")


def test_a_dead_executors_lock_is_waited_for(home: Home) -> None:
    """A child that it was spawning when it died may hold it until its exec is over."""
    nobody = subprocess.Popen(["true"])
    nobody.wait()
    home.state_dir.mkdir()
    with (home.state_dir / "executor.lock").open("w") as lock:
        lock.write(f"{nobody.pid}\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = home.executor()

        def waits_for_it() -> None:
            assert str(home.state_dir / "executor.lock") in open_files(process.pid)

        eventually(waits_for_it)
    home.daemon().ping()


def open_files(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def test_nor_may_two_share_a_runtime_directory(home: Home, daemon: Daemon) -> None:
    """Its sockets would be taken away from the first."""
    home.state_dir = home.state_dir.with_name("another")

    second = home.executor()

    assert exit_codes.ExitCode.TEMPORARY == second.wait()
    assert f"holds {home.runtime_dir}/executor.lock" in home.events("executor.refused")[0]["error"]
    daemon.ping()


def test_one_directory_for_everything_is_allowed(home: Home) -> None:
    home.runtime_dir = home.state_dir
    home.executor()

    home.daemon().ping()


def test_the_sockets_of_a_dead_predecessor_are_replaced(home: Home, daemon: Daemon) -> None:
    home.processes[0].kill()
    home.processes[0].wait()
    assert (home.runtime_dir / "executor.sock").exists()

    home.executor()

    home.daemon().ping()


def test_a_socket_path_that_is_too_long_is_a_config_error(home: Home) -> None:
    home.runtime_dir = home.state_dir / ("x" * 100)

    process = home.executor()

    assert exit_codes.ExitCode.CONFIG == process.wait()
    (refused,) = home.events("executor.refused")
    assert "Linux allows 107" in refused["error"]
    assert "runtime_dir" in refused["error"]


def test_a_directory_that_cannot_be_used_is_a_config_error(home: Home, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home.state_dir = tmp_path / "file" / "state"

    process = home.executor()

    assert exit_codes.ExitCode.CONFIG == process.wait()
    assert str(home.state_dir) in home.events("executor.refused")[0]["error"]


def test_relative_directories_are_meant_from_where_it_was_started(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.outputs)
    home.state_dir, home.runtime_dir = Path("state"), Path("run")
    process = home.executor()

    daemon = home.daemon()

    assert str(home.outputs / "state") == daemon.hello.state_dir
    assert "/" == os.readlink(f"/proc/{process.pid}/cwd")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_it_is_deaf_to_the_terminal(home: Home, daemon: Daemon, signum: signal.Signals) -> None:
    home.processes[0].send_signal(signum)

    daemon.ping()
    assert home.processes[0].poll() is None


def test_the_executor_does_not_inherit_ignored_or_blocked_signals(home: Home) -> None:
    """SIGCHLD ignored would throw exit codes away; with SIGTERM blocked it would stay."""
    both = {signal.SIGCHLD, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, both)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = home.executor(restore_signals=False)
    finally:
        signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    daemon = home.daemon()
    uid = daemon.start(["sh", "-c", "exit 3"], home.output())

    assert 3 == daemon.expect(wire.Exited, uid).exit.exit_code
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait()


def test_r34_sigterm_ends_all_runs_with_their_graces_and_then_the_executor_exits(
    home: Home, daemon: Daemon
) -> None:
    prints_bye = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    uid = daemon.start(["sh", "-c", prints_bye], home.output())
    home.expect_ready()
    home.processes[0].send_signal(signal.SIGTERM)

    exited = daemon.expect(wire.Exited, uid)
    assert ("shutdown", 0) == (exited.ended_by, exited.exit.exit_code)
    assert exited.exit.tail.endswith("bye\n")
    assert daemon.at_end()
    assert 0 == home.processes[0].wait()


def test_its_successor_reports_the_runs_that_it_ended_on_sigterm(
    home: Home, daemon: Daemon
) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())
    daemon.expect(wire.Started, uid)
    daemon.close()
    home.processes[0].send_signal(signal.SIGTERM)
    home.processes[0].wait()

    home.executor()
    run = home.daemon().runs[uid]

    assert (wire.RunState.GONE, "shutdown") == (run.state, run.ended_by)
    assert run.exit is not None
    assert signal.SIGTERM == run.exit.signal


def test_an_embedded_executor_leaves_when_the_daemon_lets_it(home: Home) -> None:
    process = home.executor("--embedded")
    daemon = home.daemon()
    uid = daemon.start(["true"], home.output())
    daemon.expect(wire.Exited, uid)

    daemon.send(wire.Forget(uid=uid), wire.Leave())

    assert daemon.at_end()
    assert 0 == process.wait()


def test_an_external_executor_ignores_a_request_to_leave(home: Home, daemon: Daemon) -> None:
    daemon.send(wire.Leave())

    daemon.ping()
    assert home.processes[0].poll() is None


def test_its_limit_of_descriptors_is_raised(home: Home) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    try:
        process = home.executor()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    home.daemon()

    assert (hard, hard) == resource.prlimit(process.pid, resource.RLIMIT_NOFILE)


def test_a_lease_that_somebody_breaks_does_not_end_it(home: Home, daemon: Daemon) -> None:
    """SIGIO, whose default ends a process: sent to who holds a lease on an output."""
    home.processes[-1].send_signal(signal.SIGIO)

    assert [] == daemon.ping()
    assert home.processes[-1].poll() is None


def test_it_holds_nothing_that_it_inherited(home: Home) -> None:
    """A reader of the pipe to its end would wait as long as the executor lives."""
    reads, writes = os.pipe()
    os.set_inheritable(writes, True)
    process = home.executor(pass_fds=(writes,))
    os.close(writes)
    home.daemon()

    with os.fdopen(reads, "rb") as pipe:
        assert b"" == pipe.read()
    assert process.poll() is None


def test_its_log_is_json_lines_of_the_catalogue(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["nonsense!"], home.output())
    daemon.expect(wire.StartFailed, uid)

    (failed,) = home.events("run.start_failed")

    assert [] == EXECUTOR["run.start_failed"].mistakes(failed)
    assert (uid, "task") == (failed["uid"], failed["fault"])


def test_workers_do_not_notice_a_daemon_that_dies(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())
    pid = daemon.expect(wire.Started, uid).pid
    daemon.socket.shutdown(socket.SHUT_RDWR)
    daemon.close()

    later = home.daemon()

    assert lives(pid)
    assert [pid] == children(home.processes[0].pid)
    assert wire.RunState.RUNNING == later.runs[uid].state


def test_a_worker_does_not_see_the_executors_sockets(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())
    pid = daemon.expect(wire.Started, uid).pid

    def probe() -> None:
        # Until it has started, the loader has others open.
        assert ["0", "1", "2"] == sorted(os.listdir(f"/proc/{pid}/fd"))
        held = [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)]
        assert ["/dev/null", str(home.output()), str(home.output())] == sorted(held)

    eventually(probe)
