"""What daemon, executor and workers write to systemd's journal, by the installed command.

The journal is a socket of the test: tests/system reads a real one.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.helpers import external_executor
from tests.e2e.world import World
from tests.eventually import eventually
from tests.journald import Journald


@pytest.fixture
def journald(world: World) -> Iterator[Journald]:
    with Journald() as journald:
        world.env |= journald.environ
        yield journald


def configure(world: World, script: str, **sections: Mapping[str, object]) -> None:
    """Give the world a profile whose output is for the journal."""
    world.configure(logs={"format": "journal", "level": "info"}, **sections)
    with world.config_file.open("a") as file:
        file.write(f'[profiles.noisy]\ncommand = ["sh", "-c", {json.dumps(script)}]\n')
        file.write('output = "journal"\nmax_attempts = 1\n')


def submit(world: World) -> int:
    return world.cli("submit", "--profile", "noisy").id


def lines(journald: Journald, task_id: int) -> list[bytes]:
    """Return what a task's workers wrote, as the journal has it."""
    found = journald.found(SYSLOG_IDENTIFIER=f"dispatcher-task-{task_id}")
    assert found == journald.found(
        SYSLOG_IDENTIFIER=f"dispatcher-task-{task_id}", DISPATCHER_TASK_ID=task_id
    )
    return [line for record in found for line in record["MESSAGE"].split(b"\n")]


def expect_lines(journald: Journald, task_id: int, wanted: list[bytes]) -> None:
    def probe() -> None:
        assert wanted == lines(journald, task_id)

    eventually(probe)


def expect_written(path: Path, text: str) -> None:
    def probe() -> None:
        assert path.exists()
        assert text in path.read_text()

    eventually(probe)


def test_r70_one_field_finds_every_log_line_about_a_task_and_its_output(
    world: World, journald: Journald
) -> None:
    configure(world, "echo hello; echo oops >&2; printf 'no end'")
    with journald.taking(), world.daemon(started=False):
        task_id, other = submit(world), submit(world)
        world.until(other, "succeeded")
        world.until(task_id, "succeeded")
        expect_lines(journald, task_id, [b"hello", b"oops", b"no end"])

    found = journald.found(DISPATCHER_TASK_ID=task_id)
    run = world.show(task_id)["runs"][0]
    events = [record.get("DISPATCHER_EVENT", b"").decode() for record in found]
    assert {"task.claimed", "run.settled"} <= set(events)
    uids = {record["DISPATCHER_RUN"] for record in found if "DISPATCHER_EVENT" not in record}
    assert {Path(run["output_path"]).stem.encode()} == uids
    assert {b"dispatcher", f"dispatcher-task-{task_id}".encode()} == {
        record["SYSLOG_IDENTIFIER"] for record in found
    }
    assert "hello\noops\nno end" == world.cli("logs", task_id).stdout
    assert b"daemon.stopped" in {record.get("DISPATCHER_EVENT") for record in journald.records}


def test_the_executors_lines_about_a_task_name_it_too(world: World, journald: Journald) -> None:
    configure(world, "sleep 600 & exit 0")
    with journald.taking(), world.daemon(started=False):
        task_id = submit(world)
        world.until(task_id, "succeeded")

    ended = journald.found(DISPATCHER_TASK_ID=task_id, DISPATCHER_EVENT="worker.leftover_ended")
    assert {b"dispatcher", b"dispatcher-executor"} == {
        record["SYSLOG_IDENTIFIER"] for record in ended
    }


def test_r70_no_line_is_lost_or_comes_twice_when_the_daemon_is_killed(
    world: World, journald: Journald
) -> None:
    go = world.directory / "go"
    configure(world, f"echo one; while [ ! -e {go} ]; do sleep 0.02; done; echo two")
    with journald.taking():
        with world.daemon(started=False, alone=False) as daemon:
            task_id = submit(world)
            expect_lines(journald, task_id, [b"one"])
            daemon.kill()
        go.touch()
        expect_lines(journald, task_id, [b"one", b"two"])
        with world.daemon(started=False):
            assert "succeeded" == world.until(task_id, "succeeded")["state"]

    assert [b"one", b"two"] == lines(journald, task_id)


def test_a_successor_forwards_the_output_that_a_killed_executor_had_not_forwarded(
    world: World, journald: Journald
) -> None:
    script = "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; exec sleep 600"
    once = {"retry": {"max_orphans": 0}, "executor": {"mode": "external"}}
    configure(world, f"cd {world.directory}; {script}", **once)
    with journald.taking() as taking, world.daemon(started=False, alone=False):
        with external_executor(world, alone=False) as executor:
            task_id = submit(world)
            expect_lines(taking, task_id, [b"one"])
            journald.leave()
            (world.directory / "go").touch()
            output = Path(world.show(task_id)["runs"][0]["output_path"])
            expect_written(output, "two")
            executor.kill()
        journald.listen()
        with external_executor(world, alone=False):
            world.until(task_id, "held")
            expect_lines(taking, task_id, [b"one", b"two"])
    inherited = journald.expect(DISPATCHER_EVENT="run.inherited", DISPATCHER_TASK_ID=task_id)
    assert b"dispatcher-executor" == inherited["SYSLOG_IDENTIFIER"]

    assert [] == journald.found(DISPATCHER_EVENT="output.unforwarded")


def test_without_a_journal_every_line_stays_in_its_file_and_the_log_reports_it(
    world: World, journald: Journald
) -> None:
    configure(world, "echo hello")
    journald.leave()
    with world.daemon() as daemon:
        task_id = submit(world)
        world.until(task_id, "succeeded")
        daemon.expect("log.unjournaled")

    assert "hello\n" == world.cli("logs", task_id).stdout
    executor = (world.state_dir / "executor.log").read_text()
    assert '"event":"output.held_back"' in executor
