"""A store that was opened before a fork: the child may do nothing with it, and harms nobody."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dispatcher.errors import DispatcherError
from tests.contract.helpers import NOW, new_task
from tests.contract.sqlite_files import opened

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


@contextmanager
def program(name: str, path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(HERE / name), str(path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.stdin.close()


def send(running: subprocess.Popen[str], word: str) -> None:
    running.stdin.write(f"{word}\n")
    running.stdin.flush()


def tasks(path: Path) -> int:
    with closing(opened(path)) as store, store.snapshot():
        return len(store.ids())


@pytest.mark.parametrize("way", ["by os.fork", "in C"])
def test_r83_a_forked_child_is_refused_by_every_transaction_and_may_close(
    path: Path, way: str
) -> None:
    with program("forker.py", path, way) as forker:
        assert forker.stdout.readline() == "forked\n"
        send(forker, "use")
        answers = forker.stdout.read().splitlines()

    assert [True, True] == [
        "tasks.db was opened before a fork" in answer and "open a Client" in answer
        for answer in answers
    ]
    assert (0, 2) == (forker.returncode, tasks(path))


@pytest.mark.parametrize("way", ["by os.fork", "in C"])
@pytest.mark.parametrize("word", ["close", "drop", "end"])
def test_a_forked_child_that_ends_takes_no_commit_of_others_with_it(
    path: Path, way: str, word: str
) -> None:
    with program("forker.py", path, way) as forker:
        assert forker.stdout.readline() == "forked\n"
        with program("committer.py", path) as committer:
            assert committer.stdout.readline() == "committed\n"
            committer.send_signal(signal.SIGKILL)
            committer.wait()
        # Nobody has it open but the child, which may believe that it is the last.
        assert path.with_name("tasks.db-wal").stat().st_size

        send(forker, word)
        assert forker.stdout.read() == ""

    assert (0, 3) == (forker.returncode, tasks(path))


def test_a_child_forked_within_a_transaction_can_neither_go_on_nor_undo_it(path: Path) -> None:
    with closing(opened(path)) as store, store.transaction():
        store.submit([new_task()], now=NOW)
        child = os.fork()
        if not child:
            refused = 0
            try:
                with pytest.raises(DispatcherError, match="before a fork"):
                    store.submit([new_task()], now=NOW)
                refused += 1
                store.engine.rollback()
                with pytest.raises(DispatcherError, match="before a fork"):
                    store.engine.begin(write=True)
                refused += 1
            finally:
                os._exit(refused)
        assert 2 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        store.submit([new_task()], now=NOW)

    assert 3 == tasks(path)


def test_a_child_that_is_forked_in_c_within_a_transaction_commits_nothing_of_it(
    path: Path,
) -> None:
    with closing(opened(path)) as store, store.transaction():
        store.submit([new_task()], now=NOW)
        child = ctypes.PyDLL(None).fork()
        if not child:
            refused = 0
            try:
                with pytest.raises(DispatcherError, match="before a fork"):
                    store.engine.commit()
                refused = 1
            finally:
                os._exit(refused)
        assert 1 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        store.submit([new_task()], now=NOW)

    assert 3 == tasks(path)
