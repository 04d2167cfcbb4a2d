"""A bulk submit that is stopped or killed half-way: nobody waits for it, and none of it is seen."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dispatcher.bulk import PART_TASKS
from tests.e2e.helpers import listed, stored
from tests.e2e.world import DISPATCHER, World
from tests.eventually import eventually

#: Lines that fill several staged parts as soon as they are written, with some left for the next.
PARTS = 5
LINES, MORE = PARTS * PART_TASKS + 100, 400

LINE = b'{"command": ["true"]}\n'


@contextmanager
def half_way(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """Give a bulk submit that has put several parts aside and waits for more lines."""
    world.submit("true", queue="earlier")
    with subprocess.Popen(
        [DISPATCHER, "submit", "--from", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=world.env,
        cwd=world.directory,
        process_group=0,  # one whose shell lives: nothing else is stopped by a terminal's signal
    ) as submit:
        assert submit.stdin is not None
        submit.stdin.write(LINE * LINES)
        submit.stdin.flush()
        try:
            eventually(lambda: _assert_parts(world, PARTS))
            yield submit
        finally:
            submit.kill()


def _assert_parts(world: World, number: int) -> None:
    assert [(number,)] == stored(world, "SELECT count(*) FROM bulk_parts")


def test_r68_a_stopped_bulk_submit_keeps_nobody_from_writing_and_goes_on(world: World) -> None:
    with half_way(world) as submit:
        submit.send_signal(signal.SIGTSTP)
        eventually(lambda: _assert_stopped(submit.pid))

        mine = world.submit("true")

        assert {1, mine} == listed(world).keys()
        submit.send_signal(signal.SIGCONT)
        printed, _ = submit.communicate(LINE * MORE)

    assert 0 == submit.returncode
    ids = [int(line) for line in printed.split()]
    assert list(range(mine + 1, mine + LINES + MORE + 1)) == ids
    assert {1, mine, *ids} == listed(world).keys()
    _assert_parts(world, 0)


def _assert_stopped(pid: int) -> None:
    assert psutil.STATUS_STOPPED == psutil.Process(pid).status()


def test_r68_a_killed_bulk_submit_is_invisible_and_blocks_nobody(world: World) -> None:
    with half_way(world) as submit:
        submit.kill()
        submit.wait()

        printed = world.cli("submit", "--from", "-", stdin=LINE * 600).stdout
        ids = [int(line) for line in printed.split()]

    assert list(range(2, 602)) == ids
    assert {1, *ids} == listed(world).keys()


@pytest.mark.parametrize("lines", [None, 10, 3 * PART_TASKS])
@pytest.mark.parametrize("to", ["a full disk", "a closed pipe"])
def test_r68_a_submit_whose_ids_cannot_be_printed_reports_that_all_is_accepted(
    world: World, lines: int | None, to: str
) -> None:
    command = ["--", "true"] if lines is None else ["--from", "-"]
    reader, writer = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("wb") as full, open(writer, "wb") as closed:
        result = subprocess.run(
            [DISPATCHER, "submit", *command],
            input=LINE * (lines or 0),
            stdout=full if to == "a full disk" else closed,
            stderr=subprocess.PIPE,
            env=world.env,
            cwd=world.directory,
            check=False,
        )

    message = result.stderr.decode()
    assert 74 == result.returncode, message
    assert message.startswith("dispatcher: task")
    assert "submitted, and" in message
    assert "do not submit again (cannot write: " in message
    assert 1 == len(message.splitlines()), message
    assert (lines or 1) == len(listed(world))
    _assert_parts(world, 0)


def test_a_reader_who_has_seen_enough_leaves_nothing_behind(world: World) -> None:
    with subprocess.Popen(
        [DISPATCHER, "submit", "--from", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=world.env,
        cwd=world.directory,
    ) as submit:
        assert submit.stdin is not None
        assert submit.stdout is not None
        assert submit.stderr is not None
        submit.stdin.write(LINE * 20_000)
        submit.stdin.close()
        assert b"1\n" == submit.stdout.readline()
        submit.stdout.close()
        message = submit.stderr.read().decode()

    assert "Traceback" not in message
    assert "Exception ignored" not in message
    assert "and all that follow, were submitted" in message
    _assert_parts(world, 0)
