"""The thread that spawns with a table of descriptors of its own."""

import ctypes
import fcntl
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher import wire
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.starting import spawn
from dispatcher.executor.starting.small_table import SmallTable
from dispatcher.executor.starting.spawn import CannotStart, Spawner
from tests.eventually import eventually


@pytest.fixture(autouse=True)
def others() -> set[str]:
    """Return the threads of the test runner."""
    return set(os.listdir("/proc/self/task"))


@pytest.fixture
def small(others: set[str]) -> Iterator[SmallTable]:
    with closing(SmallTable()) as small:
        assert small.is_there()
        yield small


def thread_of_table(others: set[str]) -> Path:
    """Return the directory in /proc of the one thread that is not of the others."""
    (name,) = set(os.listdir("/proc/self/task")) - others
    return Path("/proc/self/task", name)


def listed(thread: Path) -> list[int]:
    return [int(name) for name in os.listdir(thread / "fd")]


def test_the_table_has_nothing_of_ours_whatever_is_opened(
    small: SmallTable, others: set[str]
) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    many = [os.dup(null) for _ in range(100)]
    before = listed(thread_of_table(others))
    seen: list[int] = []

    def look(stdin: int, output: int) -> int:
        seen.extend((stdin, output))
        return len(os.listdir("/proc/thread-self/fd"))

    # The standard descriptors, its socket, both that were passed, and that of the list.
    assert 3 + 1 + 2 + 1 == small.spawn(look, null, many[-1])
    assert max(seen) < min(many)
    assert 4 == len(before)
    eventually(lambda: _same(before, listed(thread_of_table(others))))
    for descriptor in (null, *many):
        os.close(descriptor)


def _same(left: object, right: object) -> None:
    assert left == right


def test_a_failure_is_raised_where_the_start_was_requested(small: SmallTable) -> None:
    def fail(stdin: int, output: int) -> int:
        raise FileNotFoundError(stdin)

    null = os.open(os.devnull, os.O_RDWR)
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            small.spawn(fail, null, null)
    assert 7 == small.spawn(lambda *_: 7, null, null)
    os.close(null)


def test_signals_are_left_to_the_main_thread(small: SmallTable, others: set[str]) -> None:
    """Their handler writes to a descriptor that this table does not have."""
    status = (thread_of_table(others) / "status").read_text()
    (blocked,) = (int(line.split()[1], 16) for line in status.splitlines() if "SigBlk" in line)

    assert blocked & 1 << signal.SIGTERM - 1
    assert blocked & 1 << signal.SIGIO - 1


def test_it_ends_when_it_is_closed_and_leaves_no_descriptor(others: set[str]) -> None:
    before = os.listdir("/proc/self/fd")
    small = SmallTable()
    assert small.is_there()
    small.close()

    assert before == os.listdir("/proc/self/fd")
    eventually(lambda: _same(set(), set(os.listdir("/proc/self/task")) - others))


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> Iterator[OutputFiles]:
    monkeypatch.setattr(spawn, "MANY_RUNS", 0)
    outputs = OutputFiles()
    yield outputs
    outputs.release()


def spawner(outputs: OutputFiles) -> Spawner:
    return Spawner(
        outputs, environ=os.environ, open_files=resource.getrlimit(resource.RLIMIT_NOFILE)
    )


def start(path: Path, *command: str, payload: str | None = None, umask: int = 0o22) -> wire.Start:
    return wire.Start(
        uid=wire.RunUid(path.stem),
        epoch=1,
        command=command,
        env={"PATH": os.environ["PATH"]},
        output_path=str(path),
        payload=payload,
        umask=umask,
        cwd=str(path.parent),
    )


def test_a_leader_gets_all_that_it_gets_without_and_its_lock_is_its_own(
    outputs: OutputFiles, tmp_path: Path, others: set[str]
) -> None:
    path = tmp_path / f"{'a' * 32}.log"
    script = "umask; pwd; cat; echo /proc/self/fd/*; echo $PPID; touch ready; exec sleep 1000"
    with closing(spawner(outputs)) as one:
        open_in_a_shell = [f"/proc/self/fd/{number}" for number in range(4)]
        before = os.listdir("/proc/self/fd")
        leader = one.start(start(path, "sh", "-c", script, payload="hello\n", umask=0o27))
        assert len(before) + 2 == len(os.listdir("/proc/self/fd")), "own output, thread's socket"
        eventually(lambda: _same(True, (tmp_path / "ready").exists()))

        assert ["0027", str(tmp_path), "hello", *open_in_a_shell, str(os.getpid())] == (
            path.read_text().split()
        )
        assert (leader, leader) == (os.getsid(leader), os.getpgid(leader))
        assert f"{leader}" in (thread_of_table(others) / "children").read_text().split()
        assert outputs.is_locked(str(path))
        os.kill(leader, signal.SIGKILL)
        assert signal.SIGKILL == os.waitpid(leader, 0)[1]
        assert not outputs.is_locked(str(path))


def test_a_program_that_does_not_exist_is_the_tasks_fault(
    outputs: OutputFiles, tmp_path: Path
) -> None:
    with closing(spawner(outputs)) as one, pytest.raises(CannotStart) as refused:
        one.start(start(tmp_path / "a.log", "/nonexistent/program"))

    assert wire.Fault.TASK is refused.value.fault
    assert not outputs.is_locked(str(tmp_path / "a.log"))


@pytest.mark.parametrize("lacks", ["call", "library", "thread"])
def test_where_there_can_be_none_leaders_are_spawned_as_ever(
    outputs: OutputFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    class Library:
        def close_range(self, *_: object) -> int:
            return -1

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    match lacks:
        case "call":
            monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
        case "library":
            monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
        case _:
            monkeypatch.setattr(threading.Thread, "start", refuse)
    with closing(spawner(outputs)) as one:
        before = os.listdir("/proc/self/fd")
        leader = one.start(start(tmp_path / "a.log", "echo", "hello"))
        assert 0 == os.waitpid(leader, 0)[1]

        assert len(before) + 1 == len(os.listdir("/proc/self/fd"))
    assert "hello\n" == (tmp_path / "a.log").read_text()


def test_few_runs_need_no_thread(tmp_path: Path, others: set[str]) -> None:
    outputs = OutputFiles()
    with closing(spawner(outputs)) as one:
        os.waitpid(one.start(start(tmp_path / "a.log", "true")), 0)
        assert set(os.listdir("/proc/self/task")) <= others
    outputs.release()


def test_a_lock_that_is_passed_is_shared_with_ours(small: SmallTable, tmp_path: Path) -> None:
    """A lock of its own would not show whether a run lives."""
    with (tmp_path / "output").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        small.spawn(lambda _, output: fcntl.flock(output, fcntl.LOCK_UN) or 1, 0, file.fileno())
        with (tmp_path / "output").open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
