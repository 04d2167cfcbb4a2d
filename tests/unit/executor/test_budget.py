"""Output files within their budgets: real files, virtual time."""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.executor.log import Log
from dispatcher.executor.output import quiet_files
from dispatcher.executor.output.budgets import (
    LONGEST_INTERVAL,
    MOST_PUNCHED,
    SHORTEST_INTERVAL,
    SLACK,
    UNWATCHED_INTERVAL,
    BudgetedFile,
    Budgets,
)
from dispatcher.executor.output.files import OutputFile
from dispatcher.executor.output.quiet_files import QuietFiles
from dispatcher.host import holes
from dispatcher.times import NEVER, Instant
from dispatcher.wire import RunUid

Quiet = QuietFiles[BudgetedFile]

UID = RunUid("a")
BUDGET = 1 << 20

#: Descriptors that a loop would wait for.
WATCHED: list[int] = []

#: Outputs of a test, closed at its end.
OPENED: list[OutputFile] = []


@pytest.fixture
def quiet() -> Iterator[Quiet]:
    """The watcher that reports writes; a user has few of them, so it is closed."""
    WATCHED.clear()
    quiet = Quiet(WATCHED.append)
    yield quiet
    quiet.close()
    while OPENED:
        OPENED.pop().close()


def make(tmp_path: Path, quiet: Quiet) -> tuple[Budgets, Path]:
    budgets = Budgets(Log(os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)), quiet)
    path = tmp_path / "run.log"
    path.touch()
    watch(budgets, UID, path)
    return budgets, path


def watch(budgets: Budgets, uid: RunUid, path: Path) -> OutputFile:
    output = OutputFile(str(path), os.open(path, os.O_RDWR))
    OPENED.append(output)
    budgets.watch(uid, output, BUDGET, Instant(0.0))
    return output


def append(path: Path, size: int, byte: bytes = b"x") -> None:
    with path.open("ab") as file:
        file.write(byte * size)
        file.flush()
        os.fsync(file.fileno())


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_r67_the_oldest_bytes_are_punched_out_and_offsets_stay(
    tmp_path: Path, quiet: Quiet
) -> None:
    budgets, path = make(tmp_path, quiet)
    append(path, 3 * BUDGET)
    append(path, BUDGET, b"y")

    budgets.enforce(budgets.due)

    kept = path.read_bytes()
    assert 4 * BUDGET == len(kept)
    assert b"y" * BUDGET == kept[-BUDGET:]
    assert bytes(3 * BUDGET) == kept[: 3 * BUDGET]
    assert on_disk(path) <= BUDGET + 65536


def test_output_within_the_budget_is_not_touched(tmp_path: Path, quiet: Quiet) -> None:
    budgets, path = make(tmp_path, quiet)
    append(path, BUDGET)

    budgets.enforce(budgets.due)

    assert b"x" * BUDGET == path.read_bytes()


def is_watching() -> bool:
    """Whether any file is watched."""
    (descriptor,) = WATCHED
    return "inotify wd" in Path(f"/proc/self/fdinfo/{descriptor}").read_text()


def test_a_quiet_file_is_not_looked_at_until_its_first_write(tmp_path: Path, quiet: Quiet) -> None:
    budgets, path = make(tmp_path, quiet)
    budgets.enforce(budgets.due)
    assert budgets.due == NEVER

    append(path, 3 * BUDGET)
    at = Instant(50.0)
    budgets.record_writes(WATCHED, at)
    assert at == budgets.due
    budgets.enforce(at)

    assert on_disk(path) <= BUDGET + 65536
    assert SHORTEST_INTERVAL == round(budgets.due - at, 3)


def test_the_first_write_after_each_silence_is_reported_again(tmp_path: Path, quiet: Quiet) -> None:
    budgets, path = make(tmp_path, quiet)
    budgets.enforce(budgets.due)
    for at in map(Instant, (50.0, 60.0, 70.0)):
        append(path, 10)
        budgets.record_writes(WATCHED, at)
        budgets.enforce(at)
        budgets.enforce(budgets.due)
        assert budgets.due == NEVER


def test_a_write_during_the_set_up_of_a_watch_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    budgets, path = make(tmp_path, quiet)
    watch = quiet.watch

    def slow(file: BudgetedFile, name: str) -> bool:
        append(path, 10)
        return watch(file, name)

    monkeypatch.setattr(quiet, "watch", slow)
    at = budgets.due
    budgets.enforce(at)

    assert at == budgets.due


def test_a_file_is_looked_at_the_sooner_the_faster_it_grows(tmp_path: Path, quiet: Quiet) -> None:
    budgets, path = make(tmp_path, quiet)
    pauses = []
    for size in (BUDGET // 1000, BUDGET // 2, 4 * BUDGET):
        at = budgets.due
        append(path, size)
        budgets.enforce(at)
        pauses.append(round(budgets.due - at, 4))

    assert [LONGEST_INTERVAL, LONGEST_INTERVAL / 2, SHORTEST_INTERVAL] == pauses


def test_a_quiet_file_without_a_watch_is_checked_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    """A host has only so many watches to give."""
    budgets, path = make(tmp_path, quiet)
    monkeypatch.setattr(quiet_files._libc, "inotify_add_watch", lambda *_: -1)
    budgets.enforce(budgets.due)
    assert UNWATCHED_INTERVAL == budgets.due

    append(path, 3 * BUDGET)
    budgets.enforce(budgets.due)

    assert on_disk(path) <= BUDGET + 65536


def test_a_run_that_is_gone_is_not_watched_any_longer(tmp_path: Path, quiet: Quiet) -> None:
    budgets, path = make(tmp_path, quiet)
    budgets.enforce(budgets.due)
    budgets.drop(UID)
    assert not is_watching()

    append(path, 10)
    budgets.record_writes(WATCHED, Instant(50.0))

    assert budgets.due == NEVER
    assert not is_watching()


def test_a_filesystem_without_holes_is_logged_once_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    def refuse(*_: int) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(holes, "_fallocate", refuse)
    budgets, path = make(tmp_path, quiet)
    append(path, 3 * BUDGET)
    budgets.enforce(budgets.due)
    budgets.enforce(Instant(60.0))
    budgets.drop(UID)

    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "output.uncapped" in line
    assert 3 * BUDGET <= on_disk(path)
    assert "cannot punch holes" in str(holes.unsupported(str(tmp_path)))
    assert ["log", "run.log"] == sorted(file.name for file in tmp_path.iterdir())


def test_the_trial_on_a_filesystem_with_holes_logs_nothing_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    assert None is holes.unsupported(str(tmp_path))
    assert [] == list(tmp_path.iterdir())


def test_a_run_that_is_gone_ends_within_its_budget_and_is_looked_at_no_more(
    tmp_path: Path, quiet: Quiet
) -> None:
    budgets, path = make(tmp_path, quiet)
    append(path, 3 * BUDGET)

    budgets.drop(UID)
    budgets.enforce(budgets.due)

    assert on_disk(path) <= BUDGET + 65536
    assert budgets.due == NEVER


def test_one_look_punches_no_more_than_so_much(tmp_path: Path, quiet: Quiet) -> None:
    budgets, path = make(tmp_path, quiet)
    os.truncate(path, 2 * MOST_PUNCHED)
    append(path, BUDGET)
    with path.open("r+b") as file:
        file.write(b"early")
        file.seek(MOST_PUNCHED)
        file.write(b"late")

    budgets.enforce(budgets.due)
    with path.open("rb") as file:
        file.seek(MOST_PUNCHED)
        assert b"late" == file.read(4)

    budgets.enforce(budgets.due)
    with path.open("rb") as file:
        file.seek(MOST_PUNCHED)
        assert bytes(4) == file.read(4)


@pytest.mark.parametrize("size", [1 << 40, 1 << 43])
def test_a_hole_costs_nothing_however_large_it_is(tmp_path: Path, quiet: Quiet, size: int) -> None:
    """`truncate -s 7E /proc/self/fd/1`: 256 MiB at a time, it would have taken days."""
    budgets, path = make(tmp_path, quiet)
    append(path, BUDGET)
    os.truncate(path, size)
    append(path, BUDGET)

    budgets.enforce(budgets.due)
    budgets.enforce(budgets.due)

    assert on_disk(path) <= BUDGET + 65536
    assert budgets.due == NEVER


def test_a_failed_punch_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    budgets, path = make(tmp_path, quiet)
    append(path, 3 * BUDGET)

    def refuse(*_: int) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    with monkeypatch.context() as broken:
        broken.setattr(holes, "_fallocate", refuse)
        budgets.enforce(budgets.due)
    budgets.enforce(budgets.due)

    assert on_disk(path) <= BUDGET + 65536


def test_a_file_that_is_watched_twice_is_dropped_once_and_for_all(
    tmp_path: Path, quiet: Quiet
) -> None:
    path = tmp_path / "run.log"
    path.touch()
    output = OutputFile(str(path), os.open(path, os.O_RDWR))
    OPENED.append(output)
    file = BudgetedFile(output, BUDGET, looked_at=Instant(0.0))
    for _ in range(2):
        assert quiet.watch(file, str(path))
    quiet.drop(file)

    assert not is_watching()


def test_bytes_that_the_writer_truncates_are_counted(tmp_path: Path, quiet: Quiet) -> None:
    """`echo note > /dev/stderr` in a worker, whose stderr is a file."""
    budgets, path = make(tmp_path, quiet)
    append(path, 1000)
    budgets.enforce(budgets.due)
    path.write_bytes(b"note\n")
    budgets.record_writes(WATCHED, Instant(50.0))
    budgets.enforce(Instant(50.0))

    assert [1000] == [output.truncated for output in OPENED]


def test_an_unlinked_file_is_kept_within_its_budget_too(tmp_path: Path, quiet: Quiet) -> None:
    budgets, path = make(tmp_path, quiet)
    with path.open("ab") as file:
        path.unlink()
        file.write(b"x" * 3 * BUDGET)
        file.flush()
        budgets.enforce(budgets.due)

        assert os.fstat(file.fileno()).st_blocks * 512 <= BUDGET + 65536


def test_two_outputs_that_are_one_file_are_both_looked_after(tmp_path: Path, quiet: Quiet) -> None:
    """A worker may link its output to another's; the second was a KeyError."""
    budgets, path = make(tmp_path, quiet)
    watch(budgets, RunUid("b"), path)
    budgets.enforce(budgets.due)
    budgets.drop(UID)
    append(path, 3 * BUDGET)
    budgets.record_writes(WATCHED, Instant(50.0))
    budgets.enforce(Instant(50.0))
    assert on_disk(path) <= BUDGET + 65536
    budgets.drop(RunUid("b"))

    assert not is_watching()


def test_a_file_that_its_writer_truncates_is_kept_within_its_budget_again(
    tmp_path: Path, quiet: Quiet
) -> None:
    budgets, path = make(tmp_path, quiet)
    append(path, 3 * BUDGET)
    budgets.enforce(budgets.due)
    os.truncate(path, 0)
    budgets.enforce(budgets.due)
    append(path, 2 * BUDGET)

    budgets.record_writes(WATCHED, Instant(50.0))
    budgets.enforce(Instant(50.0))

    assert on_disk(path) <= BUDGET + 65536


def test_a_file_that_somebody_removed_harms_nobody(tmp_path: Path, quiet: Quiet) -> None:
    budgets, path = make(tmp_path, quiet)
    path.unlink()

    budgets.enforce(budgets.due)
    budgets.drop(UID)


@pytest.mark.parametrize("mode", [0, holes.KEEP_SIZE])
def test_r67_room_that_a_worker_reserves_is_given_back(
    tmp_path: Path, quiet: Quiet, mode: int
) -> None:
    """`fallocate -l` and `fallocate -n -l`: no search for data shows what they take."""
    budgets, path = make(tmp_path, quiet)
    with path.open("r+b") as file:
        holes.fallocate(file.fileno(), mode, 0, 40 * BUDGET)
        budgets.enforce(budgets.due)
        budgets.drop(UID)

    assert on_disk(path) <= BUDGET + SLACK


def test_an_empty_output_that_was_measured_for_its_tail_is_not_measured_again(
    tmp_path: Path, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets, path = make(tmp_path, quiet)
    assert "" == OPENED[-1].tail()
    measured = []
    monkeypatch.setattr(OutputFile, "measure", measured.append)

    budgets.drop(UID)

    assert [] == measured
    assert 0 == on_disk(path)


def test_r67_room_that_is_reserved_in_an_empty_output_is_given_back_at_the_end(
    tmp_path: Path, quiet: Quiet
) -> None:
    budgets, path = make(tmp_path, quiet)
    with path.open("r+b") as file:
        holes.fallocate(file.fileno(), holes.KEEP_SIZE, 0, 40 * BUDGET)
    assert "" == OPENED[-1].tail()

    budgets.drop(UID)

    assert on_disk(path) <= SLACK


def test_r67_bytes_written_into_a_hole_are_punched_out_again(tmp_path: Path, quiet: Quiet) -> None:
    """`dd conv=notrunc` into the beginning of an output that is long already."""
    budgets, path = make(tmp_path, quiet)
    with path.open("r+b") as file:
        file.truncate(40 * BUDGET)
        budgets.enforce(budgets.due)
        file.write(b"x" * 39 * BUDGET)
        file.flush()
        os.fsync(file.fileno())
        for _ in range(3):
            budgets.enforce(budgets.due if budgets.due != NEVER else Instant(1e6))
        budgets.drop(UID)

    assert on_disk(path) <= BUDGET + SLACK
