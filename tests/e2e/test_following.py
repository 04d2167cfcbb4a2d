"""`logs -f`, `events -f` and `submit --wait`, through the installed command."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.helpers import shell
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually


@contextmanager
def following(world: World, *command: object) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    out = world.directory / "followed"
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            [DISPATCHER, *map(str, command)],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=world.env,
        )
    try:
        yield process, out
    finally:
        process.kill()
        process.communicate()


def expect_text(file: Path, text: str) -> None:
    def probe() -> None:
        assert text == file.read_text()

    eventually(probe)


def test_r67_a_follower_loses_nothing_and_sees_nothing_twice_across_runs(world: World) -> None:
    world.configure(retry={"backoff_min": "10ms", "backoff_max": "20ms"})
    task_id = world.submit(
        *shell("""
            echo one of $DISPATCHER_ATTEMPT
            while [ ! -e go.$DISPATCHER_ATTEMPT ]; do sleep 0.02; done
            echo two of $DISPATCHER_ATTEMPT
            [ $DISPATCHER_ATTEMPT = 2 ]
        """)
    )
    with world.daemon() as daemon:
        daemon.expect("run.started")
        with following(world, "logs", "-f", task_id) as (process, out):
            expect_text(out, "one of 1\n")
            (world.directory / "go.1").touch()
            expect_text(out, "one of 1\ntwo of 1\none of 2\n")
            (world.directory / "go.2").touch()
            assert 0 == process.wait(timeout=PATIENCE)
            assert "one of 1\ntwo of 1\none of 2\ntwo of 2\n" == out.read_text()
            assert process.stderr is not None
            heads = process.stderr.read().decode().splitlines()
            assert [f"dispatcher: run {n}, attempt {n}:" for n in (1, 2)] == heads


def test_a_follower_of_a_task_that_has_not_run_yet_reports_it_and_waits(world: World) -> None:
    task_id = world.submit("echo", "here")

    with following(world, "logs", "-f", task_id) as (process, out):
        assert process.stderr is not None
        message = process.stderr.readline().decode()
        with world.daemon():
            assert 0 == process.wait(timeout=PATIENCE)

        waits = "task 1 has not run yet: ready, submitted; waiting until it does"
        assert f"dispatcher: {waits}\n" == message
        assert b"dispatcher: run 1, attempt 1:\n" == process.stderr.read()
        assert "here\n" == out.read_text()


def test_a_follower_of_a_finished_task_that_never_ran_does_not_wait(world: World) -> None:
    task_id = world.submit("true")
    world.cli("cancel", task_id)

    assert "never ran: cancelled" in world.cli("logs", "-f", task_id, exits=1).stderr


def test_a_follower_skips_dropped_output_and_reports_it(world: World) -> None:
    world.configure(output={"run_budget": "64KiB"})
    task_id = world.submit(
        *shell(
            "head -c 200000 /dev/zero | tr '\\0' a; while [ ! -e go ]; do sleep 0.02; done; echo z"
        )
    )
    with world.daemon() as daemon:
        daemon.expect("run.started")
        path = Path(world.show(task_id)["runs"][0]["output_path"])

        def probe() -> None:
            with path.open("rb") as file:
                assert 131_072 == os.lseek(file.fileno(), 0, os.SEEK_DATA)

        eventually(probe)
        (world.directory / "go").touch()
        with following(world, "logs", "-f", task_id) as (process, out):
            assert 0 == process.wait(timeout=PATIENCE)
            assert "a" * (200_000 - 131_072) + "z\n" == out.read_text()
            assert process.stderr is not None
            assert b"131072 bytes were dropped" in process.stderr.read()
        read = world.cli("logs", task_id)
        assert ("a" * (200_000 - 131_072) + "z\n", True) == (
            read.stdout,
            "131072 bytes of it were dropped" in read.stderr,
        )
        assert "131072 bytes of its output were dropped" in world.cli("show", task_id).stdout


def test_waiting_shows_by_the_exit_code_whether_all_succeeded(world: World) -> None:
    with world.daemon():
        good = world.cli("submit", "--wait", "--", "true")
        assert "succeeded" == world.show(int(good.stdout))["state"]
        fail = ("--max-attempts", "1", "--", "sh", "-c", "exit 7")
        bad = world.cli("submit", "--wait", *fail, exits=1)
        assert "failed" == world.show(int(bad.stdout))["state"]
        why = "exit code 7 (attempt 1 of 1)"
        assert f"dispatcher: task 2 failed: {why}; dispatcher logs 2\n" == bad.stderr
        report = world.cli("submit", "--wait", "--json", *fail, exits=1).json
        assert {"id": 3, "state": "failed", "outcome": "failed", "exit_code": 7} == {
            key: report[key] for key in ("id", "state", "outcome", "exit_code")
        }
        assert report["created"]
        assert "exit code 7" in report["reason"]
        lines = '{"command": ["true"]}\n' * 20
        many = world.cli("submit", "--wait", "--from", "-", stdin=lines)
        assert 20 == len(many.stdout.split())
        assert all("succeeded" == world.show(int(line))["state"] for line in many.stdout.split())


def test_output_in_a_reused_file_is_not_shown_for_the_former_run(world: World) -> None:
    """ADR 6: a run that wrote nothing hands its file on; a follower of it must notice."""
    silent = world.submit("true")
    with world.daemon():
        world.until(silent, "succeeded")
        path = Path(world.show(silent)["runs"][0]["output_path"])
        talkative = world.submit("echo", "mine")
        world.until(talkative, "succeeded")

        assert "mine\n" == world.cli("logs", talkative).stdout
        assert not path.exists() or os.stat(path).st_size == 0
        assert "" == world.cli("logs", silent).stdout


def test_r67_r74_a_flood_stays_near_its_budget_and_the_follower_reports_what_it_lost(
    world: World,
) -> None:
    """A follower that is slower than the flood; the first line is read before anything is lost.

    The flood begins after a silence. What may be over at the worst moment is what a CPU writes
    until a busy host lets the executor look: with the looks of a quiet file it would be all of it.
    """
    budget, flood, near = 10 << 20, 1 << 30, 300 << 20
    world.configure(output={"run_budget": "10MiB"})
    task_id = world.submit(
        *shell(f"""
            echo first
            while [ ! -e go ]; do sleep 0.02; done
            head -c {flood} /dev/zero
            touch flooded
            while [ ! -e end ]; do sleep 0.02; done
        """)
    )
    with world.daemon() as daemon:
        daemon.expect("run.started")
        (output,) = (world.state_dir / "output").iterdir()
        with following(world, "logs", "-f", task_id) as (process, out):
            expect_text(out, "first\n")
            process.send_signal(signal.SIGSTOP)
            (world.directory / "go").touch()
            most = 0

            def within_budget() -> None:
                nonlocal most
                taken = output.stat().st_blocks * 512
                most = max(most, taken)
                assert (world.directory / "flooded").exists()
                assert taken <= budget + 65536

            eventually(within_budget, every=0.005)
            process.send_signal(signal.SIGCONT)
            (world.directory / "end").touch()
            _, errors = process.communicate(timeout=PATIENCE)

    written = len(b"first\n") + flood
    dropped = sum(int(line.split()[1]) for line in errors.splitlines() if b"were dropped" in line)
    followed = out.read_bytes()
    assert written == output.stat().st_size
    assert written - dropped == len(followed)
    assert budget <= len(followed) <= budget + 65536
    assert not followed.removeprefix(b"first\n").strip(b"\0")
    assert budget < most < near


def test_r97_events_are_followed_in_their_order_with_who_did_what(world: World) -> None:
    world.cli("pause", "later", "--reason", "before")
    with world.daemon(), following(world, "events", "-f", "--json") as (_, out):
        eventually(lambda: told(out, 1))
        task_id = world.submit("sleep", "1000")
        world.until(task_id, "running")
        world.cli("cancel", task_id)
        world.until(task_id, "cancelled")
        eventually(lambda: told(out, 5))
        found = told(out, 5)

    assert [
        ("pause", None, "user"),
        ("submit", "ready", "user"),
        ("claim", "running", "node"),
        ("cancel", None, "user"),
        ("settle", "cancelled", "node"),
    ] == found


def told(file: Path, count: int) -> list[tuple[str, str | None, str]]:
    """Return what a follower printed, once it has printed so much."""
    events = [json.loads(line) for line in file.read_bytes().splitlines(keepends=True)]
    assert count == len(events)
    return [(one["event"], one["after"], one["who"]["kind"]) for one in events]
