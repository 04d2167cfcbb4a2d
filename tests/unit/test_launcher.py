"""The embedded executor's launcher: how soon it tries again, and what it makes of a refusal."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dispatcher.daemon import children
from dispatcher.daemon.launcher import (
    FOUND_WITHIN,
    MOST_SHOWN,
    RELAUNCH,
    SETTLED,
    EmbeddedLauncher,
)
from dispatcher.host.locks import lock_file
from dispatcher.times import Instant


class Launch:
    """A launcher whose executors are programs of ours that end at once, and the time."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "executor.log"
        self.launcher = EmbeddedLauncher(
            state_dir=directory, runtime_dir=directory, node_id="n", start=self.start
        )
        self.now = 1000.0
        self.started: list[subprocess.Popen[bytes]] = []
        self.prints("")

    def prints(self, text: str, *, code: int = 78) -> None:
        printed = text.encode(errors="surrogateescape")
        self.script = f"import sys; sys.stderr.buffer.write({printed!r}); sys.exit({code})"

    def start(self, _: list[str], **how: Any) -> subprocess.Popen[bytes]:
        self.started.append(children.start([sys.executable, "-I", "-S", "-c", self.script], **how))
        return self.started[-1]

    def turn(self, *, after: float = 0.0) -> int:
        """Let the launcher act so many seconds from now; return how many it started."""
        before = len(self.started)
        self.launcher.ensure_running(at=Instant(self.now + after))
        return len(self.started) - before

    def once(self, *, lives: float = 0.0) -> list[Any]:
        """Have one launched, and look again when it has ended, so many seconds after its start."""
        assert 1 == self.turn()
        self.started[-1].wait()
        self.now += lives
        with capture_logs() as logs:
            self.turn()
        return logs


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    launch = Launch(tmp_path)
    yield launch
    for child in launch.started:
        child.kill()
        child.wait()


def test_one_that_does_not_stay_is_started_again_ever_more_slowly(launch: Launch) -> None:
    """No loop of executors, however long nobody mends what it refuses."""
    waits = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert RELAUNCH == (waits[0], waits[-1])

    for wait in waits:
        launch.once()
        assert 0 == launch.turn(after=wait - 0.01)
        launch.now += wait


@pytest.mark.parametrize(
    ("printed", "error"),
    [
        ('{"event":"executor.refused","error":"the journal /x is no file; move it"}\n', "the jour"),
        (
            '{"event":"executor.failed","error":"Traceback:\\n  line\\nKeyError: 5\\n"}\n',
            "KeyError",
        ),
        ("Traceback:\n  line\nModuleNotFoundError: No module named 'x'\n", "ModuleNotFoundError: "),
        ('{"event":"daemon.greeted","epoch":1}\n', None),
        ("", None),
        ("\udcff\n", "�"),
        ("x" * 100_000, "x" * MOST_SHOWN),
    ],
)
def test_its_last_error_is_kept_and_logged(launch: Launch, printed: str, error: str | None) -> None:
    launch.log.write_text('{"event":"executor.refused","error":"of an earlier one"}\n')
    launch.prints(printed)

    (line,) = launch.once()

    assert ("executor.exited", 78) == (line["event"], line["exit_code"])
    assert line["reason"] == launch.launcher.last_error
    assert (error is None) == (launch.launcher.last_error is None)
    assert (launch.launcher.last_error or "").startswith(error or "")


def test_a_fifo_in_the_place_of_a_log_delays_nobody(launch: Launch) -> None:
    launch.prints("an error\n")
    launch.turn()
    launch.started[-1].wait()
    launch.log.unlink()
    os.mkfifo(launch.log)

    launch.turn()

    assert launch.launcher.last_error is None


def test_one_that_stayed_a_while_refused_nothing(launch: Launch) -> None:
    launch.prints("an error\n")
    launch.once()
    assert "an error" == launch.launcher.last_error

    launch.now += 5
    launch.once(lives=SETTLED)

    assert launch.launcher.last_error is None


def test_a_log_that_cannot_be_opened_at_once_is_named_and_keeps_nobody_waiting(
    launch: Launch,
) -> None:
    os.mkfifo(launch.log)

    with capture_logs() as logs:
        launch.launcher.ensure_running(at=Instant(launch.now))

    assert ["daemon.waiting"] == [line["event"] for line in logs]
    assert str(launch.log) in str(launch.launcher.last_error)


def test_none_is_started_while_one_lives_and_recreates_its_socket(launch: Launch) -> None:
    held = lock_file(launch.log.with_name("executor.lock"), "executor")
    with capture_logs() as logs:
        for late in (0.0, 1.0, FOUND_WITHIN - 0.1):
            assert 0 == launch.turn(after=late)
    assert [f"the executor (pid {os.getpid()}) lives"] == [
        line["reason"].partition(" and ")[0] for line in logs
    ]

    held.close()

    assert 1 == launch.turn(after=FOUND_WITHIN - 0.1)


def test_one_that_is_not_found_for_long_gives_the_reason_by_its_own_refusal(launch: Launch) -> None:
    held = lock_file(launch.log.with_name("executor.lock"), "executor")
    launch.turn()
    assert 1 == launch.turn(after=FOUND_WITHIN)
    held.close()
