"""Output files: locked while anyone writes, handed on when they stayed empty."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.executor.output import files
from dispatcher.executor.output.files import MOST_EMPTY, OutputFiles, OutputLocked


@pytest.fixture
def outputs() -> Iterator[OutputFiles]:
    outputs = OutputFiles()
    yield outputs
    outputs.release()


def test_a_run_that_wrote_nothing_leaves_its_file_to_the_next(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    first, second = str(tmp_path / "first.log"), str(tmp_path / "second.log")
    os.close(outputs.open(first))
    file = outputs.identity(first)

    assert "" == outputs.end(first)
    outputs.close(first)
    os.close(outputs.open(second))

    assert file == outputs.identity(second)
    assert ["second.log"] == os.listdir(tmp_path)


def test_written_output_stays_in_its_file(outputs: OutputFiles, tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    os.close(outputs.open(str(first)))
    first.write_text("hello\n")

    assert "hello\n" == outputs.end(str(first))
    os.close(outputs.open(str(second)))

    assert ("hello\n", "") == (first.read_text(), second.read_text())


def test_a_file_that_somebody_still_has_open_is_not_handed_on(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    first, second = str(tmp_path / "first.log"), str(tmp_path / "second.log")
    held = outputs.open(first)

    outputs.end(first)
    outputs.close(first)
    os.close(outputs.open(second))

    assert outputs.identity(first) != outputs.identity(second)
    assert outputs.is_locked(first)
    os.close(held)


@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND])
def test_a_file_that_somebody_opened_by_its_name_is_not_handed_on(
    outputs: OutputFiles, tmp_path: Path, mode: int
) -> None:
    """A `tail -f` of the former run, or a process of it that goes on and dropped the lock."""
    first, second = str(tmp_path / "first.log"), str(tmp_path / "second.log")
    os.close(outputs.open(first))
    outputs.end(first)
    outputs.close(first)
    other = os.open(first, mode)

    os.close(outputs.open(second))

    assert outputs.identity(first) == (os.fstat(other).st_dev, os.fstat(other).st_ino)
    assert outputs.identity(first) != outputs.identity(second)
    os.close(other)


def test_a_file_that_was_open_elsewhere_during_twenty_starts_is_handed_on_afterwards(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    """As by a child that is about to exec, while a busy host starts others."""
    first = str(tmp_path / "first.log")
    os.close(outputs.open(first))
    outputs.end(first)
    outputs.close(first)
    child = os.open(first, os.O_WRONLY | os.O_APPEND)
    inode = outputs.identity(first)

    for number in range(20):
        os.close(outputs.open(str(tmp_path / f"{number}.log")))
    assert inode == outputs.identity(first)
    os.close(child)
    os.close(outputs.open(str(tmp_path / "last.log")))

    assert inode == outputs.identity(str(tmp_path / "last.log"))


@pytest.mark.parametrize("kind", ["fifo", "not empty", "linked", "unreadable"])
def test_a_file_that_a_worker_put_in_place_of_its_output_is_not_reused(
    outputs: OutputFiles, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "run.log"
    os.close(outputs.open(str(path)))
    match kind:
        case "fifo":
            path.unlink()
            os.mkfifo(path)
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        case "not empty":
            path.unlink()
            path.write_text("SECRET")
        case "linked":
            (tmp_path / "other").hardlink_to(path)
        case _:
            path.write_text("SECRET")
            path.chmod(0)

    outputs.end(str(path))
    outputs.close(str(path))
    second = tmp_path / "second.log"
    os.close(outputs.open(str(second)))

    assert path.exists()
    assert (0, 1) == (second.stat().st_size, second.stat().st_nlink)
    if kind == "fifo":
        os.close(reader)


def test_an_empty_file_that_was_written_after_the_end_is_not_reused(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    os.close(outputs.open(str(first)))
    outputs.end(str(first))
    outputs.close(str(first))
    first.write_text("late")

    os.close(outputs.open(str(second)))

    assert ("late", "") == (first.read_text(), second.read_text())


def test_a_fifo_in_place_of_an_empty_file_costs_the_next_run_nothing(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    """It got the next run's name, and its start failed for the host's fault."""
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    os.close(outputs.open(str(first)))
    outputs.end(str(first))
    outputs.close(str(first))
    first.unlink()
    os.mkfifo(first)

    os.close(outputs.open(str(second)))

    assert (True, True) == (first.is_fifo(), second.is_file())


def test_a_file_that_is_handed_on_is_opened_anew_and_locked_for_its_run(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    """What the former run's processes had is not what the next run's get."""
    first, second = str(tmp_path / "first.log"), str(tmp_path / "second.log")
    os.close(outputs.open(first))
    outputs.end(first)
    outputs.close(first)
    assert not outputs.is_locked(first)

    descriptor = outputs.open(second)

    assert outputs.is_locked(second)
    assert os.O_WRONLY | os.O_APPEND == fcntl.fcntl(descriptor, fcntl.F_GETFL) & (
        os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK
    )
    os.close(descriptor)
    assert not outputs.is_locked(second), "our own descriptor does not share the lock"


def test_a_file_that_cannot_be_had_costs_the_next_run_nothing(
    outputs: OutputFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its name, and is tried again."""
    first, second, third = (str(tmp_path / f"{name}.log") for name in ("first", "second", "third"))
    os.close(outputs.open(first))
    inode = outputs.identity(first)
    outputs.end(first)
    outputs.close(first)
    with monkeypatch.context() as patched:
        patched.setattr(files, "_opened_again", refused)
        with pytest.raises(PermissionError):
            outputs.open(second)
    assert inode == outputs.identity(first)
    os.unlink(second)

    os.close(outputs.open(third))

    assert inode == outputs.identity(third)


def refused(descriptor: int, flags: int) -> int:
    raise PermissionError(descriptor, flags)


def test_each_empty_file_costs_one_descriptor_and_is_closed_once_it_is_gone(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    before = os.listdir("/proc/self/fd")
    paths = [str(tmp_path / f"{number}.log") for number in range(MOST_EMPTY + 5)]
    for path in paths:
        os.close(outputs.open(path))
    for path in paths:
        outputs.end(path)
        outputs.close(path)
    assert len(before) + MOST_EMPTY == len(os.listdir("/proc/self/fd"))

    for path in paths:
        os.unlink(path)
    for number in range(MOST_EMPTY):
        os.close(outputs.open(str(tmp_path / f"other {number}")))
        outputs.close(str(tmp_path / f"other {number}"))

    assert before == os.listdir("/proc/self/fd")


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_only_a_regular_file_is_opened_and_nobody_waits(
    outputs: OutputFiles, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "run.log"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case _:
            path.mkdir()

    with pytest.raises(OSError, match=r"No such device|symbolic links|directory"):
        outputs.open(str(path))
    assert "" == outputs.tail(str(path))

    assert not (tmp_path / "elsewhere").exists()


def test_a_program_finds_its_output_as_it_expects_it(outputs: OutputFiles, tmp_path: Path) -> None:
    descriptor = outputs.open(str(tmp_path / "run.log"))
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    os.close(descriptor)

    assert os.O_APPEND == flags & (os.O_APPEND | os.O_NONBLOCK)


def test_the_tail_is_of_the_file_that_was_opened_whatever_has_its_name(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    """A worker may unlink its output, move another in its place, or take away its own right."""
    path = tmp_path / "run.log"
    with os.fdopen(outputs.open(str(path)), "wb") as worker:
        worker.write(b"hello\n")
    path.unlink()
    path.write_bytes(b"another")
    path.chmod(0)

    assert "hello\n" == outputs.end(str(path))
    outputs.close(str(path))
    os.close(outputs.open(str(tmp_path / "second.log")))

    assert b"" == (tmp_path / "second.log").read_bytes()


def test_a_file_that_was_tidied_away_does_no_harm(outputs: OutputFiles, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first.log"), str(tmp_path / "second.log")
    os.close(outputs.open(first))
    outputs.end(first)
    outputs.close(first)
    os.unlink(first)

    os.close(outputs.open(second))

    assert outputs.identity(second) is not None


def test_the_lock_is_held_as_long_as_anyone_has_the_description(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    path = str(tmp_path / "run.log")
    ours = outputs.open(path)
    theirs = os.dup(ours)

    os.close(ours)
    with pytest.raises(OutputLocked):
        outputs.open(path)
    os.close(theirs)

    assert not outputs.is_locked(path)


def test_a_daemon_that_tries_the_lock_before_it_removes_a_file_is_not_a_survivor(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    path = str(tmp_path / "run.log")
    os.close(outputs.open(path))
    with open(path, "rb") as daemons:
        fcntl.flock(daemons, fcntl.LOCK_SH)

        assert not outputs.is_locked(path)


def test_a_tail_is_the_last_4_kib_as_text_that_any_database_takes(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    file = tmp_path / "run.log"
    file.write_bytes(b"x" * 5000 + b"\0\xff end")

    tail = outputs.tail(str(file))

    assert tail.endswith("x\N{REPLACEMENT CHARACTER} end")
    assert 4095 == len(tail)


def test_a_directory_that_was_removed_is_made_again_as_it_was(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    directory = tmp_path / "output"

    os.close(outputs.open(str(directory / "uid.log")))

    assert (0o700, ["uid.log"]) == (directory.stat().st_mode & 0o777, os.listdir(directory))


def test_no_state_directory_is_made_in_the_place_of_one_that_is_gone(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        outputs.open(str(tmp_path / "state" / "output" / "uid.log"))

    assert [] == os.listdir(tmp_path)
