"""Workers that speak systemd's own protocol: the real `systemd-notify`, and programs like it."""

import os
import shutil
import signal
import subprocess
import time
from datetime import datetime

import pytest

from tests.e2e.helpers import expect_file, expect_settled, ordinary_user, python, shell
from tests.e2e.world import World
from tests.eventually import eventually

pytestmark = [
    pytest.mark.skipif(
        not shutil.which("systemd-notify"), reason="there is no systemd-notify (package systemd)"
    ),
]

#: A worker that is alive by its own word alone, until the file `enough` is there.
BEATS = 'while [ ! -e "$R/enough" ]; do systemd-notify WATCHDOG=1; sleep 0.3; done'

#: One that sends whatever it can, 253 descriptors with every message of two, for itself alone.
FLOODS = """
    import array, os, socket
    out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    out.connect(os.environ["NOTIFY_SOCKET"])
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1] * 253))]
    while not os.path.exists(os.environ["R"] + "/enough"):
        out.send(b"WATCHDOG=1\\nSTATUS=" + b"x" * 4000)
        try:
            out.sendmsg([b"x" * 65536], passed)
        except OSError:  # a user may have so many on their way
            pass
"""

WORKER = {"liveness": "worker", "lease_ttl": "1s"}


def submit(world: World, *command: str, **options: str | int) -> int:
    return world.submit(*command, **{**WORKER, **options})


def run_of(world: World, task_id: int) -> dict[str, object]:
    runs: list[dict[str, object]] = world.show(task_id)["runs"]
    return runs[-1]


def notify_sockets(world: World) -> list[str]:
    return sorted(path.name for path in (world.runtime_dir / "notify").iterdir())


def namespaces() -> bool:
    made = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    return shutil.which("unshare") is not None and not subprocess.run(made, check=False).returncode


def test_r80_any_program_that_uses_systemd_notify_keeps_a_lease_of_a_second(world: World) -> None:
    """A shell loop, senders that are gone, another user, a container, each during a flood.

    A silent worker is lost.
    """
    world.configure(node={"slots": 8})
    env = ("env", f"D={world.directory}", f"R={world.runtime_dir}")
    workers = {"a loop": shell(BEATS)}
    # Nobody waits for these senders to be read, nor do they live then.
    gone = 'while [ ! -e "$R/enough" ]; do systemd-notify --no-block WATCHDOG=1; sleep 0.3; done'
    workers["senders that are gone"] = shell(gone)
    workers["a flood"] = python(FLOODS)
    if os.geteuid() == 0:
        user = ordinary_user()
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "sh", "-c"]
        workers["another user"] = [*become, BEATS]
        # The owner decides who may enter the runtime directory.
        world.runtime_dir.chmod(0o711)
    if namespaces():
        # It sees its socket under another name, and nothing else of the runtime directory.
        (world.directory / "inside").touch()
        enter = 'mount --bind "$NOTIFY_SOCKET" "$D/inside" && mount -t tmpfs none "$R" && '
        enter += 'test -z "$(ls "$R")" && export NOTIFY_SOCKET="$D/inside" && '
        unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        workers["a container"] = [*unshare, *shell(enter + f"R=$D && {BEATS}")]

    with world.daemon() as daemon:
        ids = {name: submit(world, *env, *command) for name, command in workers.items()}
        silent = submit(world, "sleep", "60", max_attempts=1)
        lost = world.until(silent, "failed")
        daemon.expect("lease.expired", task_id=silent)
        beaten = {name: run_of(world, task_id) for name, task_id in ids.items()}
        for directory in (world.runtime_dir, world.directory):
            (directory / "enough").touch()
        for name, task_id in ids.items():
            task = world.until(task_id, "succeeded", "failed")
            (run,) = task["runs"]
            assert ("succeeded", 1) == (task["state"], task["fence"]), f"{name}: {task}"
            assert run["last_heartbeat_at"] is not None, name

        assert "lost" == lost["runs"][0]["outcome"]
        assert all(run["outcome"] is None for run in beaten.values()), beaten
        assert [] == notify_sockets(world)


def test_a_user_whom_the_runtime_directory_keeps_out_cannot_beat(world: World) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    user = ordinary_user()
    assert 0o700 == world.runtime_dir.stat().st_mode & 0o777
    with world.daemon():
        stranger = submit(
            world,
            *("setpriv", f"--reuid={user}", "--clear-groups", "sh", "-c"),
            "systemd-notify WATCHDOG=1; exec sleep 60",
            max_attempts=1,
        )
        (run,) = world.until(stranger, "failed")["runs"]
        assert ("lost", None) == (run["outcome"], run["last_heartbeat_at"])


def test_status_and_requests_of_workers_are_shown_and_carried_out(world: World) -> None:
    """READY and STATUS, EXTEND_TIMEOUT_USEC and WATCHDOG=trigger; a `process` run with --notify."""
    with world.daemon() as daemon:
        script = 'systemd-notify --ready --status "half way"; : > sent; exec sleep 60'
        reports = world.cli("submit", "--notify", "--", *shell(script)).id
        extends = submit(
            world,
            *python(
                """
                import os, socket, time
                out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                out.connect(os.environ["NOTIFY_SOCKET"])
                out.send(b"WATCHDOG=1\\nEXTEND_TIMEOUT_USEC=2500000")
                begin = time.monotonic()
                while time.monotonic() < begin + 60:
                    out.send(b"WATCHDOG=1")
                    time.sleep(0.1)
                """
            ),
            run_timeout="2s",
            max_attempts=1,
        )
        gives_up = submit(
            world,
            *shell("systemd-notify WATCHDOG=trigger; trap '' TERM; exec sleep 60"),
            lease_ttl="20s",
            max_attempts=1,
        )
        expect_file(world, "sent")
        eventually(lambda: noted(world, reports, "half way"))
        world.cli("cancel", reports)

        (gave_up,) = world.until(gives_up, "failed")["runs"]
        (extended,) = world.until(extends, "failed")["runs"]
        extended_at = moment_of(daemon.expect("run.extended", task_id=extends)["timestamp"])
        expect_settled(daemon, [reports], outcome="cancelled")
    assert ("failed", True) == (gave_up["outcome"], "WATCHDOG=trigger" in gave_up["error"])
    assert "timed_out" == extended["outcome"]
    assert moment_of(extended["ended_at"]) - moment_of(extended["started_at"]) > 2.49, extended
    assert extended_at < moment_of(extended["ended_at"])


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_r80_notices_sent_while_no_daemon_listens_are_kept_for_the_next(
    world: World, how: str
) -> None:
    """A beat before each look, a note and requested time: nothing of it waits for a daemon."""
    script = """
        import os, socket, time
        from pathlib import Path
        out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        out.connect(os.environ["NOTIFY_SOCKET"])
        def send(text):
            out.send(text)
            Path("sent").write_text("sent")
        send(b"READY=1")
        while not Path("away").exists():
            out.send(b"WATCHDOG=1")
            time.sleep(0.1)
        for _ in range(100):  # ten may wait in a socket
            out.send(b"WATCHDOG=1\\nSTATUS=nobody listens")
        out.send(b"EXTEND_TIMEOUT_USEC=20000000")
        Path("extended").touch()
        while not Path("enough").exists():
            out.send(b"WATCHDOG=1")
            time.sleep(0.1)
        out.send(b"STATUS=done")
    """
    with world.daemon() as daemon:
        task_id = submit(world, *python(script), run_timeout="1500ms", total_timeout="60s")
        expect_file(world, "sent")
        daemon.expect("run.started")
        if how == "stopped":
            daemon.signal(signal.SIGSTOP)
        else:
            daemon.kill()
        (world.directory / "away").touch()
        expect_file(world, "extended")
        began = world_time(world, task_id)
        if time.time() > began + 1.4:
            pytest.skip("the host is too slow: its run time-out was over before it requested more")
        # Beyond the lease, its run time-out, and the two seconds that the executor adds to it.
        eventually(lambda: passed(began + (1.8 if how == "stopped" else 3.8)))
        if how == "stopped":
            daemon.signal(signal.SIGCONT)
            finish(world, task_id)
    if how == "killed":
        with world.daemon():
            finish(world, task_id)


def world_time(world: World, task_id: int) -> float:
    return moment_of(run_of(world, task_id)["started_at"])


def passed(moment: float) -> None:
    assert time.time() >= moment


def noted(world: World, task_id: int, note: str) -> None:
    run = run_of(world, task_id)
    assert (note, True) == (run["note"], run["last_heartbeat_at"] is not None)


def finish(world: World, task_id: int) -> None:
    """See that the run goes on as it was, then let it end."""

    eventually(lambda: noted(world, task_id, "nobody listens"))
    (world.directory / "enough").touch()
    task = world.until(task_id, "succeeded", "failed", "scheduled")
    assert [("succeeded", "done")] == [(run["outcome"], run["note"]) for run in task["runs"]], task


def moment_of(text: object) -> float:
    return datetime.fromisoformat(str(text)).timestamp()
