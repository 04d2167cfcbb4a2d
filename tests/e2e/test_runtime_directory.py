"""The runtime directory is removed under a daemon and an executor that live: nobody loses by it."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
import pytest

from dispatcher.host.locks import lock_file
from tests.e2e.helpers import expect_file, expect_settled, external_executor, python, shell, states
from tests.e2e.world import Daemon, World
from tests.eventually import eventually, let_pass

#: Speaks over a new connection each time, over one that must not end, or to its notify socket: by
#: its name, or connected once. Notes each beat that was taken, or could be sent; a refusal ends it.
BEATS = """
    import json, os, pathlib, socket, sys, time
    way, env, beats, answer = sys.argv[1], os.environ, 0, {}
    out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if way == "connected":
        out.connect(env["NOTIFY_SOCKET"])
    if way == "stays":
        line = socket.socket(socket.AF_UNIX)
        line.connect(env["DISPATCHER_SOCKET"])
        answers = line.makefile()
    request = {"op": "heartbeat", "task_id": int(env["DISPATCHER_TASK_ID"]),
             "lock": env["DISPATCHER_CLAIM_LOCK"]}
    while not os.path.exists("enough"):
        try:
            if way == "requests":
                with socket.socket(socket.AF_UNIX) as line:
                    line.connect(env["DISPATCHER_SOCKET"])
                    line.sendall(json.dumps(request).encode() + b"\\n")
                    answer = json.loads(line.makefile().readline() or '{"ok": true}')
            elif way == "stays":
                line.sendall(json.dumps(request).encode() + b"\\n")
                answer = json.loads(answers.readline() or '{"error": "the connection ended"}')
            elif way == "sends":
                out.sendto(b"WATCHDOG=1", env["NOTIFY_SOCKET"])
            else:
                out.send(b"WATCHDOG=1")
            if "error" not in answer:
                beats += 1
            elif answer["error"] != "store_unavailable":  # for that nobody stops
                sys.exit(f"refused: {answer}")
            pathlib.Path(f"beats.{env['DISPATCHER_TASK_ID']}").write_text("beat\\n" * beats)
        except OSError:
            pass
        time.sleep(0.2)
"""

PAGE = Path(__file__).parents[2] / "docs" / "workers.md"


def heartbeat_of_page() -> str:
    """Return the heartbeat that docs/workers.md shows for a script."""
    lines = PAGE.read_text().splitlines()
    (line,) = [one for one in lines if one.startswith("python -m worker_stub heartbeat")]
    return line.replace("python", sys.executable, 1)


VERB = f"""
    while [ ! -e enough ]; do
        {heartbeat_of_page()}
        echo beat >> beats.$DISPATCHER_TASK_ID
        sleep 0.3
    done
"""

WORKER = {"liveness": "worker", "lease_ttl": "2s", "max_attempts": 1}

ONE_BEAT = f"""
    while [ ! -e beat ]; do sleep 0.05; done
    {sys.executable} -m worker_stub heartbeat || exit 79
"""

PLAIN = "while [ ! -e enough ]; do sleep 0.1; done"


def begin(world: World, daemon: Daemon, *ways: str, lease: str = "2s") -> list[int]:
    """Start a worker for each way to speak, `plain` for none, and wait until all have spoken."""
    tasks = []
    for way in ways:
        command = {"plain": shell(PLAIN), "verb": shell(VERB)}.get(way, [*python(BEATS), way])
        options = {"verb": WORKER | {"lease_ttl": "1m"}, "plain": {"max_attempts": 1}}
        worker = WORKER | {"lease_ttl": lease}
        tasks.append(world.submit(*command, **options.get(way, worker)))
    for task_id, way in zip(tasks, ways, strict=True):
        daemon.expect("run.started", task_id=task_id)
        if way != "plain":
            expect_file(world, f"beats.{task_id}")
    return tasks


def expect_beats(world: World, tasks: list[int], ways: tuple[str, ...], *, more: int = 3) -> None:
    """Wait until so many more beats of each worker that sends any were accepted."""
    speakers = [task for task, way in zip(tasks, ways, strict=True) if way != "plain"]
    done = {task: len(expect_file(world, f"beats.{task}")) for task in speakers}
    for task in speakers:
        expect_file(world, f"beats.{task}", lines=done[task] + more)


def finish(world: World, daemon: Daemon, tasks: list[int]) -> None:
    """Let all workers exit, and check that each ran once, unharmed, on one connection."""
    (world.directory / "enough").touch()
    expect_settled(daemon, tasks, outcome="succeeded", fence=1)
    assert [] == daemon.events("lease.expired")
    assert [] == [e for e in daemon.events("run.ending") if e["task_id"] in tasks]


def restored(daemon: Daemon, *, times: int = 1) -> None:
    """Wait until daemon and executor have all their names again."""

    def probe() -> None:
        assert times <= len(daemon.events("runtime.restored")), daemon.output()
        assert times <= len(daemon.events("workers.reachable")), daemon.output()

    eventually(probe)


def look(world: World) -> dict[str, tuple[int, int]]:
    """Return mode and owner of all that is in the runtime directory, and of itself."""
    paths = [world.runtime_dir, *world.runtime_dir.iterdir()]
    found = {path.name: path.stat() for path in paths}
    return {name: (stat.S_IMODE(one.st_mode), one.st_uid) for name, one in found.items()}


@contextmanager
def gone(world: World) -> Iterator[Path]:
    """Remove the directory above the runtime directory; none can be made there in the block."""
    above = world.runtime_dir.parent
    aside = above.with_name("aside")
    above.rename(aside)
    shutil.rmtree(aside)
    above.touch()
    yield above
    above.unlink()


def expect_one_that_waits(door: Path) -> None:
    """A connection that nobody has accepted is in state 2 (connecting), and has no inode."""
    lines = [one.split() for one in Path("/proc/net/unix").read_text().splitlines()]
    assert [] != [one for one in lines if one[-1] == str(door) and one[5:7] == ["02", "0"]]


def expect_another(door: Path, inode: int) -> None:
    """See that a socket was made again."""
    try:
        assert inode != door.stat().st_ino
    except FileNotFoundError as error:
        raise AssertionError from error


@pytest.fixture
def nested(world: World) -> Iterator[World]:
    """A world whose runtime directory is in one of its own."""
    outer = world.runtime_dir
    world.runtime_dir = outer / "user" / "run"
    world.runtime_dir.mkdir(0o700, parents=True)
    world.configure(node={"slots": 24})
    yield world
    world.sweep()
    world.runtime_dir = outer


def test_r75_workers_live_on_when_the_runtime_directory_is_removed(nested: World) -> None:
    world, ways = nested, ("requests",) * 6 + ("sends",) * 3 + ("connected",) * 3 + ("plain",) * 6
    ways += ("verb", "stays")
    with world.daemon() as daemon:
        tasks = begin(world, daemon, *ways, lease="5m")  # twenty of them start at once
        before, executor = look(world), daemon.executor().pid

        for times in (1, 2, 3):
            shutil.rmtree(world.runtime_dir)
            restored(daemon, times=times)
            expect_beats(world, tasks, ways)

        assert before == look(world)
        assert 0o711 == stat.S_IMODE((world.runtime_dir / "notify").stat().st_mode)
        report = world.cli("status", "--json").json
        assert ("running", "connected", 20) == (
            report["daemon"],
            report["executor"],
            report["node"]["busy"],
        )
        assert [executor] == [e["executor_pid"] for e in daemon.events("executor.connected")]
        assert [] == daemon.events("executor.lost")
        (run,) = world.show(tasks[ways.index("verb")])["runs"]
        assert "half way" == run["note"]
        finish(world, daemon, tasks)


def test_r75_leases_wait_while_the_directory_cannot_be_made_and_begin_anew_then(
    nested: World,
) -> None:
    """As between a logout and the next login: nobody may make `/run/user/1000` but root."""
    world, ways = nested, ("requests", "sends", "connected", "plain")
    with world.daemon() as daemon:
        tasks = begin(world, daemon, *ways)

        with gone(world):
            daemon.expect("workers.unreachable")
            daemon.expect("runtime.lost")
            let_pass(3.0)  # more than a lease
            assert 1 == len(daemon.events("runtime.lost"))
            assert 1 == len(daemon.events("workers.unreachable"))
        restored(daemon)

        expect_beats(world, tasks, ways)
        finish(world, daemon, tasks)
        assert 1 == len(daemon.events("runtime.restored"))
    log = (world.state_dir / "executor.log").read_text().splitlines()
    events = [event for event in map(json.loads, log) if event["event"].startswith("runtime.")]
    assert ["runtime.lost", "runtime.restored"] == [event["event"] for event in events]


def test_a_worker_that_is_silent_is_still_found_out_afterwards(nested: World) -> None:
    with nested.daemon() as daemon:
        task_id = nested.submit("sleep", "600", **WORKER)
        daemon.expect("run.started", task_id=task_id)

        shutil.rmtree(nested.runtime_dir)
        restored(daemon)

        expect_settled(daemon, [task_id], outcome="lost")


def test_commands_report_its_absence(nested: World) -> None:
    world = nested
    with world.daemon() as daemon:
        tasks = begin(world, daemon, "plain", "plain")
        message = (
            f"the runtime directory {world.runtime_dir} was removed; the daemon (pid"
            f" {daemon.pid}) lives and recreates it; if it cannot, runtime.lost in its log gives"
            " the reason"
        )
        with gone(world):
            daemon.expect("workers.unreachable")

            report = world.cli("status", "--json").json
            assert ("not answering", [message]) == (report["daemon"], report["degraded"])
            assert f"degraded  {message}" in world.cli("status").stdout
            doctor = {one["check"]: one for one in world.cli("doctor", "--json").json}
            assert ("warning", message.partition("; ")[0]) == (
                doctor["daemon"]["level"],
                doctor["daemon"]["finding"],
            )
            assert doctor["daemon"]["remedy"].startswith(message.partition("; ")[2])
            assert "warning" == doctor["sockets"]["level"]
            assert message in world.cli("reload", exits=1).stderr
            waits = world.cli("submit", "--delay", "1h", "--", "true").id
            assert message in world.cli("why", waits).stdout
            soon = world.cli("submit", "--", "true").id
            world.until(soon, "succeeded")  # looked for, as nobody can wake the daemon
            world.cli("cancel", tasks[0])
            world.until(tasks[0], "cancelled")
        restored(daemon)
        assert "running" == world.cli("status", "--json").json["daemon"]
        finish(world, daemon, tasks[1:])


def test_no_second_daemon_and_no_second_executor_start_while_it_is_missing(nested: World) -> None:
    world = nested
    with world.daemon() as daemon:
        tasks = begin(world, daemon, "requests", "plain")
        executor = daemon.executor().pid
        with gone(world):
            daemon.expect("workers.unreachable")

            refused = world.cli("run", exits=75)
            assert f"{world.state_dir} is in use by pid {daemon.pid}" in refused.stderr
            refused = world.cli("executor", exits=75)
            assert f"another executor, pid {executor}, holds {world.state_dir}" in refused.stderr
        restored(daemon)

        assert 75 == world.cli("run", exits=75).exit_code
        finish(world, daemon, tasks)


def test_a_daemon_of_another_state_directory_cannot_have_the_new_one_either(nested: World) -> None:
    world = nested
    with world.daemon() as daemon:
        daemon.expect("executor.connected")
        shutil.rmtree(world.runtime_dir)
        restored(daemon)
        other = world.directory / "other.toml"
        text = world.config_file.read_text().replace(str(world.state_dir), f"{world.directory}/o")
        other.write_text(text)

        refused = world.cli("run", "--config", other, exits=75)

        assert f"runtime directory {world.runtime_dir} is in use by pid {daemon.pid}" in (
            refused.stderr
        )
        assert daemon.pid == world.cli("status", "--json").json["daemon_pid"]


def test_a_directory_that_another_dispatcher_locked_meanwhile_is_left_to_it(nested: World) -> None:
    world, ways = nested, ("requests", "sends", "plain")
    above, theirs = world.runtime_dir.parent, world.runtime_dir.parent.with_name("theirs")
    (theirs / "run").mkdir(0o700, parents=True)
    locks = ("daemon.lock", "executor.lock")
    with world.daemon() as daemon, ExitStack() as held:
        tasks = begin(world, daemon, *ways)
        others = [
            held.enter_context(closing(lock_file(theirs / "run" / lock, "x", holder="them")))
            for lock in locks
        ]

        def take() -> None:
            shutil.rmtree(above)
            try:
                theirs.rename(above)
            except OSError as error:  # ours were faster
                raise AssertionError("they look just now") from error

        eventually(take)
        reason = daemon.expect("runtime.lost")["reason"]
        daemon.expect("workers.unreachable")

        assert f"{world.runtime_dir} is in use by pid {os.getpid()}, them" in reason
        assert set(locks) == {path.name for path in world.runtime_dir.iterdir()}
        report = world.cli("status", "--json").json
        assert "not answering" == report["daemon"]
        assert f"the daemon (pid {daemon.pid}) lives" in report["degraded"][0]
        assert "its socket was removed: see runtime.lost in its log" in report["degraded"][0]
        let_pass(3.0)  # more than a lease
        for other in others:
            other.close()
        restored(daemon)
        expect_beats(world, tasks, ways)
        finish(world, daemon, tasks)


@pytest.mark.parametrize("mode", ["embedded", "external"])
def test_a_daemon_that_starts_without_the_directory_finds_the_executor_that_lives(
    nested: World, mode: str
) -> None:
    world, ways = nested, ("requests", "sends", "plain")
    world.configure(node={"slots": 24}, executor={"mode": mode})
    with external_executor(world) if mode == "external" else suspended():
        with world.daemon() as first:
            tasks = begin(world, first, *ways)
            short = world.submit(*shell("while [ ! -e short ]; do sleep 0.05; done; exit 3"))
            first.expect("run.started", task_id=short)
            executor = first.executor()
            first.kill()
        shutil.rmtree(world.runtime_dir.parent)
        (world.directory / "short").touch()

        with world.daemon(alone=False) as second:
            second.expect("executor.connected", executor_pid=executor.pid)

            assert [] == second.events("executor.started")
            expect_settled(second, [short], outcome="failed", exit_code=3)
            expect_beats(world, tasks, ways)
            finish(world, second, tasks)
            assert [executor] == [p for p in world.processes() if is_executor(p)]


def test_a_beat_that_waits_for_a_daemon_is_answered_though_the_directory_is_removed(
    nested: World,
) -> None:
    """It was reset, and `heartbeat || exit 79` ends a healthy run."""
    world = nested
    world.configure(executor={"mode": "external"})
    with external_executor(world):
        with world.daemon() as first:
            first.expect("executor.connected")
            task_id = world.submit(*shell(ONE_BEAT), **WORKER | {"lease_ttl": "1m"})
            first.expect("run.started", task_id=task_id)
            first.kill()
        (world.directory / "beat").touch()
        door = world.runtime_dir / "worker.sock"
        eventually(lambda: expect_one_that_waits(door))
        was = door.stat().st_ino
        shutil.rmtree(world.runtime_dir)
        eventually(lambda: expect_another(door, was))

        with world.daemon(alone=False) as second:
            expect_settled(second, [task_id], outcome="succeeded", fence=1)


@pytest.mark.parametrize(
    "name", ["control.sock", "worker.sock", "executor.sock", "daemon.lock", "executor.lock"]
)
def test_each_name_comes_back_alone(nested: World, name: str) -> None:
    world = nested
    of_daemon = name in {"control.sock", "daemon.lock"}
    with world.daemon() as daemon:
        tasks = begin(world, daemon, "requests")
        (world.runtime_dir / name).unlink()

        if of_daemon:
            assert [name] == daemon.expect("runtime.restored")["names"]
        else:
            daemon.expect("workers.reachable")
        assert (world.runtime_dir / name).exists()
        expect_beats(world, tasks, ("requests",))
        assert ["running"] == states(world)
        finish(world, daemon, tasks)


def test_the_socket_of_one_worker_comes_back_and_its_lease_begins_anew(nested: World) -> None:
    world, ways = nested, ("sends", "connected")
    with world.daemon() as daemon:
        tasks = begin(world, daemon, *ways)
        for path in (world.runtime_dir / "notify").iterdir():
            path.unlink()

        daemon.expect("workers.reachable")
        expect_beats(world, tasks, ways, more=8)
        finish(world, daemon, tasks)
    assert [] == list((world.runtime_dir / "notify").iterdir())


def test_a_worker_starts_though_its_directory_is_missing(nested: World) -> None:
    """It finds its sockets a little later, as those do that ran before."""
    world = nested
    with world.daemon() as daemon:
        daemon.expect("executor.connected")
        with gone(world):
            daemon.expect("workers.unreachable")
            task_id = world.submit(*python(BEATS), "sends", **WORKER)
            daemon.expect("run.started", task_id=task_id)
        restored(daemon)

        expect_beats(world, [task_id], ("sends",), more=0)
        finish(world, daemon, [task_id])
        assert [] == daemon.events("node.paused")


@contextmanager
def suspended() -> Iterator[None]:
    """Do nothing: the daemon has an executor of its own."""
    yield


def is_executor(process: psutil.Process) -> bool:
    return "dispatcher.executor" in process.cmdline() and process.pid != os.getpid()
